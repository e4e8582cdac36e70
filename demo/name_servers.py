"""Names of a demo's internet: an authority that reveals who asks, and resolvers that ask it for others.

Any name in ZONE has text, and an address, that say who asked for it. `python -m demo.name_servers ADDRESS AUTHORITY` is one more
resolver, which asks from ADDRESS: beside a tunnel it is a leak.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from demo.geo_map import GeoMap

ZONE: Final = "who.internet.test"
_PORT: Final = 53
_TTL_S: Final = 1
_PATIENCE_S: Final = 2.0
_ZONE: Final = dns.name.from_text(ZONE)
_Place = tuple[str, int]


class AuthoritativeServer(asyncio.DatagramProtocol):
    """Answers for the zone and for the names of the atlas, and knows nothing else."""

    def __init__(self, atlas: GeoMap) -> None:
        self._places = atlas.places
        self._hosts: Mapping[dns.name.Name, str] = {
            dns.name.from_text(name): address for name, address in atlas.hosts.items()
        }
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: _Place) -> None:
        try:
            query = dns.message.from_wire(data)
            question = query.question[0]
        except (dns.exception.DNSException, IndexError):
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        if question.name.is_subdomain(_ZONE):
            _reveal(answer, question, addr[0], self._places.get(addr[0]))
        elif question.name in self._hosts:
            _add(answer, question, dns.rdatatype.A, self._hosts[question.name])
        else:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        if self._transport is not None:
            self._transport.sendto(answer.to_wire(), addr)


def _reveal(answer: dns.message.Message, question: dns.rrset.RRset, asker: str, country: str | None) -> None:
    _add(answer, question, dns.rdatatype.A, asker)
    known = (f'"country={country}"', f'"network=AS64500 {country.upper()} Network"') if country else ()
    _add(answer, question, dns.rdatatype.TXT, " ".join((f'"ip={asker}"', *known)))


def _add(answer: dns.message.Message, question: dns.rrset.RRset, kind: dns.rdatatype.RdataType, text: str) -> None:
    """A record, if that kind is asked for."""
    if question.rdtype == kind:
        answer.answer.append(dns.rrset.from_text(question.name, _TTL_S, "IN", kind, text))


class RecursiveResolver(asyncio.DatagramProtocol):
    """Asks the authority what it is asked, from its own address, and hands the answer back; it remembers nothing."""

    def __init__(self, address: str, authority: str) -> None:
        self._address = address
        self._authority = authority
        self._transport: asyncio.DatagramTransport | None = None
        self._asking: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: _Place) -> None:
        task = asyncio.create_task(self._resolve(data, addr))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _resolve(self, query: bytes, client: _Place) -> None:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _OneAnswer(answer), local_addr=(self._address, 0), remote_addr=(self._authority, _PORT)
        )
        try:
            transport.sendto(query)
            async with asyncio.timeout(_PATIENCE_S):
                said = await answer
        except TimeoutError:
            return
        finally:
            transport.close()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(said, client)


class _OneAnswer(asyncio.DatagramProtocol):
    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self._answer = answer

    def datagram_received(self, data: bytes, _addr: _Place) -> None:
        if not self._answer.done():
            self._answer.set_result(data)


@asynccontextmanager
async def serve_names(atlas: GeoMap) -> AsyncIterator[None]:
    """The authority and all resolvers of an atlas, on port 53 of their addresses; none if it has no authority."""
    transports: list[asyncio.DatagramTransport] = []
    try:
        if atlas.authority is not None:
            transports.append(await _open_authority(atlas, atlas.authority))
            for address in atlas.resolvers:
                transports.append(await _open_resolver(address, atlas.authority))  # noqa: PERF401 - those open are closed
        yield
    finally:
        for transport in transports:
            transport.close()


async def _open_authority(atlas: GeoMap, address: str) -> asyncio.DatagramTransport:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: AuthoritativeServer(atlas), local_addr=(address, _PORT)
    )
    return transport


async def _open_resolver(address: str, authority: str) -> asyncio.DatagramTransport:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: RecursiveResolver(address, authority), local_addr=(address, _PORT)
    )
    return transport


async def _serve_one(address: str, authority: str) -> None:
    transport = await _open_resolver(address, authority)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    transport.close()


if __name__ == "__main__":
    asyncio.run(_serve_one(*sys.argv[1:3]))
