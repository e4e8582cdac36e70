"""Watching a parent proxy: whether it answers a CONNECT, and lets the exit in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from yarl import URL

from agent.config.credentials import basic_authorization
from agent.config.settings import ParentProxy
from model.endpoint import Endpoint

TIMEOUT_S: Final = 2.0
NOWHERE: Final = Endpoint("127.0.0.1", 1)
"""What is asked for where no target is known: nothing is there, so that a proxy says at once that it cannot go there."""
_HEAD_MAX_BYTES: Final = 8192
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\r?\n)")


def request_options(parent: ParentProxy | None, url: URL, headers: Mapping[str, str]) -> dict[str, Any]:
    """The arguments by which aiohttp sends a request for `url` through the parent, if there is one.

    By plain HTTP the request itself is what the parent reads; by HTTPS it is for the target's eyes alone.
    """
    if parent is None:
        return {"headers": headers}
    proxy = f"http://{parent.endpoint}"
    known = parent.current_credentials()
    shown = {} if known is None else {"Proxy-Authorization": basic_authorization(known)}
    if url.scheme == "https":
        return {"proxy": proxy, "proxy_headers": shown, "headers": headers}
    return {"proxy": proxy, "headers": {**headers, **shown}}


async def parent_trouble(parent: ParentProxy, target: Endpoint | None) -> str | None:
    """What keeps the parent from serving the exit: it must answer a CONNECT, and make one to `target` if there is one."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status = await _connect(parent, target or NOWHERE)
    except TimeoutError:
        return f"the parent proxy {parent.endpoint} does not answer in time"
    except OSError:
        return f"the parent proxy {parent.endpoint} cannot be reached"
    if status is None:
        return f"the parent proxy {parent.endpoint} answers what is no HTTP"
    if status == 407:
        refuses = "refuses the exit's credentials" if parent.credentials else "asks for credentials"
        return f"the parent proxy {parent.endpoint} {refuses}"
    if target is not None and not 200 <= status < 300:
        return f"{target} cannot be reached through the parent proxy {parent.endpoint} (it answers {status})"
    return None


async def _connect(parent: ParentProxy, target: Endpoint) -> int | None:
    """The status that it answers a CONNECT with; None for what is none. Raises OSError."""
    reader, writer = await asyncio.open_connection(parent.endpoint.host, parent.endpoint.port, limit=_HEAD_MAX_BYTES)
    try:
        writer.write(_request(parent, target))
        await writer.drain()
        with suppress(ValueError):  # a line without an end
            found = _STATUS.match(await reader.readline())
            return int(found[1]) if found else None
        return None
    finally:
        writer.transport.abort()


def _request(parent: ParentProxy, target: Endpoint) -> bytes:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if (known := parent.current_credentials()) is not None:
        lines.append(f"Proxy-Authorization: {basic_authorization(known)}")
    return "\r\n".join([*lines, "", ""]).encode()
