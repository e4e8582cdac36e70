"""The name servers of a demo's internet: an authoritative server, and resolvers that query it for the exits.

Every name in ZONE has a TXT and an A record with the address that sent the query. `python -m demo.name_servers ADDRESS
AUTHORITY` runs another resolver, which queries from ADDRESS; outside a tunnel it is a DNS leak.
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
_TIMEOUT_S: Final = 2.0
_ZONE: Final = dns.name.from_text(ZONE)
_Place = tuple[str, int]


class AuthoritativeServer(asyncio.DatagramProtocol):
    """The authoritative server of ZONE and of the names of a GeoMap."""

    def __init__(self, geo_map: GeoMap) -> None:
        self._countries = geo_map.countries
        self._hosts: Mapping[dns.name.Name, str] = {
            dns.name.from_text(name): address for name, address in geo_map.hosts.items()
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
            _add_sender(answer, question, addr[0], self._countries.get(addr[0]))
        elif question.name in self._hosts:
            _add_record(answer, question, dns.rdatatype.A, self._hosts[question.name])
        else:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        if self._transport is not None:
            self._transport.sendto(answer.to_wire(), addr)


def _add_sender(answer: dns.message.Message, question: dns.rrset.RRset, sender: str, country: str | None) -> None:
    _add_record(answer, question, dns.rdatatype.A, sender)
    known = (f'"country={country}"', f'"network=AS64500 {country.upper()} Network"') if country else ()
    _add_record(answer, question, dns.rdatatype.TXT, " ".join((f'"ip={sender}"', *known)))


def _add_record(
    answer: dns.message.Message, question: dns.rrset.RRset, kind: dns.rdatatype.RdataType, text: str
) -> None:
    """Add a record to the answer if the question is for its type."""
    if question.rdtype == kind:
        answer.answer.append(dns.rrset.from_text(question.name, _TTL_S, "IN", kind, text))


class RecursiveResolver(asyncio.DatagramProtocol):
    """A resolver without a cache, which forwards queries to the authoritative server from its own address."""

    def __init__(self, address: str, authority: str) -> None:
        self._address = address
        self._authority = authority
        self._transport: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: _Place) -> None:
        task = asyncio.create_task(self._resolve(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resolve(self, query: bytes, client: _Place) -> None:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _SingleReply(answer), local_addr=(self._address, 0), remote_addr=(self._authority, _PORT)
        )
        try:
            transport.sendto(query)
            async with asyncio.timeout(_TIMEOUT_S):
                data = await answer
        except TimeoutError:
            return
        finally:
            transport.close()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, client)


class _SingleReply(asyncio.DatagramProtocol):
    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self._answer = answer

    def datagram_received(self, data: bytes, _addr: _Place) -> None:
        if not self._answer.done():
            self._answer.set_result(data)


@asynccontextmanager
async def serve_names(geo_map: GeoMap) -> AsyncIterator[None]:
    """Run the authoritative server and the resolvers of a GeoMap on port 53; none if it has no `authority`."""
    transports: list[asyncio.DatagramTransport] = []
    try:
        if geo_map.authority is not None:
            transports.append(await _open_authority(geo_map, geo_map.authority))
            for address in geo_map.resolvers:
                transports.append(await _open_resolver(address, geo_map.authority))  # noqa: PERF401 - after an error, the open ones must be in the list
        yield
    finally:
        for transport in transports:
            transport.close()


async def _open_authority(geo_map: GeoMap, address: str) -> asyncio.DatagramTransport:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: AuthoritativeServer(geo_map), local_addr=(address, _PORT)
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
