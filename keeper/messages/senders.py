"""Sending of one message: signed webhooks with aiohttp, everything else with Apprise in a thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from keeper.messages.signature import sign
from model.apprise_client import TIMEOUT_S as APPRISE_TIMEOUT_S
from model.apprise_client import NotSent, notify
from model.channel_urls import WEBHOOK, hosts_of, redact
from model.repositories.messages import ClaimedMessage
from model.tables import ChannelRow
from xds.translate.forbidden_targets import is_on_exit as is_local

WEBHOOK_TIMEOUT_S: Final = 10.0
_REASON_CHARS_MAX: Final = 300
_LOCAL: Final = "its address is on the control plane's own host or link, where messages are not sent"


class Sender:
    """Sends messages for one replica. It is an async context manager, which holds the HTTP client."""

    def __init__(self, clock: Callable[[], datetime], *, allows_local: bool = False) -> None:
        self._clock = clock
        self._allows_local = allows_local
        self._running: dict[UUID, asyncio.Future[None]] = {}
        """The threads of Apprise, by channel. One that hangs cannot be ended."""

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(resolver=_WebhookResolver(allows_local=self._allows_local), force_close=True)
        self._http = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(WEBHOOK_TIMEOUT_S))
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._http.close()

    async def send(self, channel: ChannelRow, message: ClaimedMessage) -> None:
        """Send a message. Raises NotSent."""
        if not self._allows_local and any(map(is_local, hosts_of(channel.url))):
            raise NotSent(_LOCAL)
        try:
            if channel.service == WEBHOOK:
                await self._post(channel, message)
            else:
                await self._notify(channel, message)
        except NotSent as error:
            raise NotSent(redact(str(error), channel.url, channel.signing_key)[:_REASON_CHARS_MAX]) from None

    async def _post(self, channel: ChannelRow, message: ClaimedMessage) -> None:
        body = json.dumps(webhook_body(message), separators=(",", ":")).encode()
        headers = sign(channel.signing_key or "", body, self._clock())
        headers |= {"Content-Type": "application/json", "Exitplane-Message": str(message.id)}
        try:
            # a redirect would lead to an address that nobody declared
            async with self._http.post(channel.url, data=body, headers=headers, allow_redirects=False) as reply:
                if not 200 <= reply.status < 300:
                    raise NotSent(f"the receiver answered with status {reply.status}")
        except TimeoutError:
            raise NotSent(f"the receiver did not answer within {WEBHOOK_TIMEOUT_S:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotSent(f"the receiver cannot be reached ({error})") from None

    async def _notify(self, channel: ChannelRow, message: ClaimedMessage) -> None:
        hanging = self._running.get(channel.id)
        if hanging is not None and not hanging.done():
            raise NotSent("an earlier attempt still hangs")
        if not self._allows_local:
            await _check_names(hosts_of(channel.url))
        running = self._running[channel.id] = in_thread(lambda: notify(channel.url, message.content))
        done, _ = await asyncio.wait([running], timeout=APPRISE_TIMEOUT_S)
        if not done:
            running.add_done_callback(lambda each: each.cancelled() or each.exception())  # nobody reads its outcome
            raise NotSent(f"the service did not answer within {APPRISE_TIMEOUT_S:g} s")
        del self._running[channel.id]
        running.result()


def webhook_body(message: ClaimedMessage) -> Mapping[str, Any]:
    """Return the body of a webhook, which is the same in every attempt."""
    return {"id": message.id, "at": message.created_at.isoformat(), "rule": message.rule, **message.content}


def in_thread(call: Callable[[], None]) -> asyncio.Future[None]:
    """Call a function in a thread of its own, which does not keep the process from ending, unlike those of an executor."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if not outcome.done():
            outcome.set_result(None) if error is None else outcome.set_exception(error)

    def run() -> None:
        try:
            call()
            error = None
        except Exception as raised:  # noqa: BLE001 - it is raised where the outcome is awaited
            error = raised if isinstance(raised, NotSent) else NotSent(f"{type(raised).__name__}: {raised}")
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, daemon=True, name="message").start()
    return outcome


async def _check_names(hosts: list[str]) -> None:
    """Refuse hosts with an address on this host or link. Raises NotSent. Apprise resolves them again (docs/messages.md)."""
    for host in hosts:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, None)
        except (OSError, UnicodeError) as error:
            raise NotSent(f"its name does not resolve ({error})") from None
        if any(is_local(str(entry[4][0])) for entry in found):
            raise NotSent(_LOCAL)


class _WebhookResolver(AbstractResolver):
    """Resolves names to the addresses that webhooks may dial."""

    def __init__(self, *, allows_local: bool) -> None:
        self._allows_local = allows_local
        self._resolver: aiohttp.ThreadedResolver | None = None

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        """Resolve a name. Raises OSError when it has no address that may be dialled."""
        if self._resolver is None:
            self._resolver = aiohttp.ThreadedResolver()
        found = await self._resolver.resolve(host, port, family)
        allowed = [each for each in found if self._allows_local or not is_local(each["host"])]
        if not allowed:
            raise OSError(None, _LOCAL)
        return allowed

    async def close(self) -> None:
        """Nothing is open."""
