"""HTTP requests to geolocation services, sent over a chosen egress path and with bounded answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, Self, TypeAlias

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver
from yarl import URL

from agent.config.settings import ExitSettings, ParentProxy
from agent.egress.answer_formats import parse_answer
from agent.egress.parent_proxy import build_request_options
from agent.egress.tunnel_resolver import TunnelResolver
from agent.egress.types import SeenAddress, UnusableAnswer
from agent.net.interfaces import bound_socket

log = structlog.get_logger()

BODY_MAX_BYTES: Final = 65_536
TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 3.0

Request: TypeAlias = Any
"""An aiohttp request: an async context manager of its response."""
Answers = Sequence[tuple[str, SeenAddress | str]]
"""Pairs of a source's name and the address that it saw, or the reason why its answer is unusable."""


@dataclass(frozen=True, slots=True)
class EgressPath:
    """The path that outgoing requests take: interface, source address and address family; None leaves the choice to the kernel.

    Names are resolved by `resolvers` (IP addresses), or by the host's resolver without any. With a parent proxy all requests go
    to that, and the parent may be outside the tunnel.
    """

    interface: str | None = None
    address: str | None = None
    family: int = socket.AF_INET
    parent: ParentProxy | None = None
    resolvers: tuple[str, ...] = ()

    def open_socket(self) -> socket.socket:
        """Create a non-blocking, unconnected TCP socket that is bound to this path. Raises OSError."""
        return bound_socket(self.interface, self.address, self.family)

    def create_resolver(self) -> AbstractResolver:
        """Create the resolver for the names of targets."""
        return TunnelResolver(self.resolvers, self.interface) if self.resolvers else aiohttp.ThreadedResolver()

    def open_session(self, timeout_s: float = TIMEOUT_S) -> EgressSession:
        """Create an HTTP session whose requests take this path."""
        if self.parent is not None:
            connector = aiohttp.TCPConnector(force_close=True)
        else:
            connector = aiohttp.TCPConnector(
                family=socket.AddressFamily(self.family),
                force_close=True,
                resolver=self.create_resolver(),
                socket_factory=lambda info: bound_socket(self.interface, self.address, info[0]),
            )
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))
        return EgressSession(aiohttp.ClientSession(connector=connector, timeout=timeout), self.parent)


class EgressSession:
    """An HTTP session over one egress path, which follows no redirects. Use it as an async context manager."""

    def __init__(self, client: aiohttp.ClientSession, parent: ParentProxy | None) -> None:
        self._client = client
        self._parent = parent

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    def get(self, url: URL, headers: Mapping[str, str]) -> Request:
        return self._client.get(url, allow_redirects=False, **build_request_options(self._parent, url, headers))

    def post(self, url: URL, body: AsyncIterator[bytes]) -> Request:
        return self._client.post(url, allow_redirects=False, data=body, **build_request_options(self._parent, url, {}))


def build_tunnel_path(exit_: ExitSettings) -> EgressPath:
    """Build the path that is bound to the exit's tunnel interface, or leads to its parent proxy."""
    if exit_.parent is not None:
        return EgressPath(parent=exit_.parent)
    family = socket.AF_INET6 if _uses_ipv6(exit_) else socket.AF_INET
    return EgressPath(exit_.tunnel_interface, exit_.egress_address, family, resolvers=exit_.resolvers)


def build_client_path(exit_: ExitSettings, family: int = socket.AF_INET) -> EgressPath:
    """Build the path that clients' traffic takes by the kernel's routes, whether or not Envoy's sockets are bound to the tunnel."""
    if exit_.parent is not None:
        return EgressPath(parent=exit_.parent)
    address = exit_.egress_address if family == build_tunnel_path(exit_).family else None
    return EgressPath(None, address, family, resolvers=exit_.resolvers)


def _uses_ipv6(exit_: ExitSettings) -> bool:
    hosts = [parse_ip(str(source.host)) for source in exit_.sources]
    if exit_.egress_address is not None:
        return isinstance(parse_ip(exit_.egress_address), IPv6Address)
    return bool(hosts) and all(isinstance(host, IPv6Address) for host in hosts)


def parse_ip(host: str) -> IPv4Address | IPv6Address | None:
    """Parse a host that is an IP address; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


async def query_sources(path: EgressPath, sources: Sequence[URL], timeout_s: float = TIMEOUT_S) -> Answers:
    """Query concurrently all sources that the path's address family can reach."""
    version = 6 if path.family == socket.AF_INET6 else 4
    reachable = [source for source in sources if getattr(parse_ip(str(source.host)), "version", version) == version]
    async with path.open_session(timeout_s) as session:
        answers = await asyncio.gather(*(query_source(session, source) for source in reachable))
    return [(str(source.host), answer) for source, answer in zip(reachable, answers, strict=True)]


async def query_source(session: EgressSession, source: URL) -> SeenAddress | str:
    """Return the address that a source saw, or the reason why its answer is unusable."""
    try:
        async with session.get(source, {"Accept": "application/json"}) as response:
            if response.status != 200:
                return f"it answers {response.status}"
            body = await response.content.read(BODY_MAX_BYTES + 1)
            while len(body) <= BODY_MAX_BYTES and (more := await response.content.read(BODY_MAX_BYTES + 1 - len(body))):
                body += more
            if len(body) > BODY_MAX_BYTES:
                return f"its answer exceeds {BODY_MAX_BYTES} bytes"
            return parse_answer(body)
    except TimeoutError:
        return "it does not answer in time"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        log.debug("observation.unanswered", source=str(source), reason=str(error))
        return "it cannot be reached"
    except UnusableAnswer as unusable:
        return str(unusable)
