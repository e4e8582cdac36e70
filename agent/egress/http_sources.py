"""Asking sources over HTTP: the ways out of an exit, and a bounded, patient look at what they answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, Self, TypeAlias

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver
from yarl import URL

from agent.config.settings import ExitSettings, ParentProxy
from agent.egress.answer_formats import read_answer
from agent.egress.parent_proxy import request_options
from agent.egress.tunnel_resolver import TunnelResolver
from agent.egress.types import SeenAddress, UnusableAnswer
from agent.net.interfaces import bound_socket

log = structlog.get_logger()

BODY_MAX: Final = 65_536
TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 3.0

Request: TypeAlias = Any
"""aiohttp's: an async context of a response."""
Answers = Sequence[tuple[str, SeenAddress | str]]
"""Each source's name, with what it saw or why that is of no use."""


@dataclass(frozen=True, slots=True)
class EgressPath:
    """How what is asked leaves: by an interface, from an address, and over one family; None is the kernel's choice.

    Names are asked of `resolvers` (IP addresses), or as the host does, without any. With a parent proxy it all goes through that,
    which need not be in the tunnel.
    """

    interface: str | None = None
    address: str | None = None
    family: int = socket.AF_INET
    parent: ParentProxy | None = None
    resolvers: tuple[str, ...] = ()

    def new_socket(self) -> socket.socket:
        """A TCP socket that leaves this way, not connected and not blocking. Raises OSError."""
        return bound_socket(self.interface, self.address, self.family)

    def names(self) -> AbstractResolver:
        """Who knows the addresses of what is asked."""
        return TunnelResolver(self.resolvers, self.interface) if self.resolvers else aiohttp.ThreadedResolver()

    def session(self, timeout_s: float = TIMEOUT_S) -> EgressSession:
        """Whatever is asked in it leaves this way."""
        if self.parent is not None:
            connector = aiohttp.TCPConnector(force_close=True)
        else:
            connector = aiohttp.TCPConnector(
                family=socket.AddressFamily(self.family),
                force_close=True,
                resolver=self.names(),
                socket_factory=lambda place: bound_socket(self.interface, self.address, place[0]),
            )
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))
        return EgressSession(aiohttp.ClientSession(connector=connector, timeout=timeout), self.parent)


class EgressSession:
    """Requests that leave one way, and follow no redirect. Use it as an async context."""

    def __init__(self, client: aiohttp.ClientSession, parent: ParentProxy | None) -> None:
        self._client = client
        self._parent = parent

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    def get(self, url: URL, headers: Mapping[str, str]) -> Request:
        return self._client.get(url, allow_redirects=False, **request_options(self._parent, url, headers))

    def post(self, url: URL, body: AsyncIterator[bytes]) -> Request:
        return self._client.post(url, allow_redirects=False, data=body, **request_options(self._parent, url, {}))


def through_tunnel(exit_: ExitSettings) -> EgressPath:
    """The way of an exit's traffic, if all is as it should be."""
    if exit_.parent is not None:
        return EgressPath(parent=exit_.parent)
    family = socket.AF_INET6 if _of_ipv6(exit_) else socket.AF_INET
    return EgressPath(exit_.tunnel_interface, exit_.egress_address, family, resolvers=exit_.resolvers)


def as_clients(exit_: ExitSettings, family: int = socket.AF_INET) -> EgressPath:
    """The way that the kernel chooses for what clients send: the exit's Envoy binds to no interface."""
    if exit_.parent is not None:
        return EgressPath(parent=exit_.parent)
    address = exit_.egress_address if family == through_tunnel(exit_).family else None
    return EgressPath(None, address, family, resolvers=exit_.resolvers)


def _of_ipv6(exit_: ExitSettings) -> bool:
    hosts = [literal(str(source.host)) for source in exit_.sources]
    if exit_.egress_address is not None:
        return isinstance(literal(exit_.egress_address), IPv6Address)
    return bool(hosts) and all(isinstance(host, IPv6Address) for host in hosts)


def literal(host: str) -> object:
    """The IP address that a host is; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


async def ask_all(way: EgressPath, sources: Sequence[URL], timeout_s: float = TIMEOUT_S) -> Answers:
    """Ask those sources, all at once, that can be reached by the way's family."""
    version = 6 if way.family == socket.AF_INET6 else 4
    fit = [each for each in sources if getattr(literal(str(each.host)), "version", version) == version]
    async with way.session(timeout_s) as session:
        answers = await asyncio.gather(*(ask(session, source) for source in fit))
    return [(str(source.host), answer) for source, answer in zip(fit, answers, strict=True)]


async def ask(session: EgressSession, source: URL) -> SeenAddress | str:
    """What a source saw, or why that is of no use."""
    try:
        async with session.get(source, {"Accept": "application/json"}) as response:
            if response.status != 200:
                return f"it answers {response.status}"
            body = await response.content.read(BODY_MAX + 1)
            while len(body) <= BODY_MAX and (more := await response.content.read(BODY_MAX + 1 - len(body))):
                body += more
            return "it answers too much" if len(body) > BODY_MAX else read_answer(body)
    except TimeoutError:
        return "it does not answer in time"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        log.debug("observation.unanswered", source=str(source), reason=str(error))
        return "it cannot be reached"
    except UnusableAnswer as useless:
        return str(useless)
