"""One question to one resolver (RFC 1035): by UDP, once more when nothing comes, and by TCP when the answer is cut short.

It goes the way that Envoy's own questions go: no interface is chosen for it, unless somebody says so. What comes is anybody's
bytes: what does not parse, or answers another question, is not taken, and in the end is told.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import closing
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from agent.egress.types import UnusableAnswer
from agent.vpn.tunnel_health import socket_through
from model.endpoint import Endpoint

WAITS_S: Final = (1.0, 2.0)
_TCP_S: Final = 3.0
_BYTES_MAX: Final = 65_535
UNREADABLE: Final = (dns.exception.DNSException, ValueError, LookupError, struct.error, RecursionError)
"""What reading a message raises that is none."""


async def look_up(
    name: str, kind: dns.rdatatype.RdataType, server: Endpoint, interface: str | None = None
) -> dns.message.Message:
    """The answer to a question, which may hold no records. Raises Useless with what came instead."""
    query = dns.message.make_query(name, kind)
    try:
        answer = await _by_udp(query, server, interface)
        if answer.flags & dns.flags.TC:
            answer = await _by_tcp(query, server, interface)
    except TimeoutError as error:
        raise UnusableAnswer("it does not answer in time") from error
    except OSError as error:
        raise UnusableAnswer("it cannot be reached") from error
    if answer.rcode() == dns.rcode.NXDOMAIN:
        raise UnusableAnswer("it says that there is no such name")
    if answer.rcode() != dns.rcode.NOERROR:
        raise UnusableAnswer(f"it answers {dns.rcode.to_text(answer.rcode())}")
    return answer


async def _by_udp(query: dns.message.Message, server: Endpoint, interface: str | None) -> dns.message.Message:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    strange = None
    with closing(socket_through(interface, None, family, socket.SOCK_DGRAM)) as asking:
        await loop.sock_connect(asking, (server.host, server.port))
        for wait_s in WAITS_S:
            try:
                async with asyncio.timeout(wait_s):
                    await loop.sock_sendall(asking, query.to_wire())
                    while True:
                        try:
                            return _read(await loop.sock_recv(asking, _BYTES_MAX), query)
                        except UnusableAnswer as useless:
                            strange = useless
            except TimeoutError:
                continue
    raise strange or TimeoutError


async def _by_tcp(query: dns.message.Message, server: Endpoint, interface: str | None) -> dns.message.Message:
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    async with asyncio.timeout(_TCP_S):
        asking = socket_through(interface, None, family)
        try:
            await asyncio.get_running_loop().sock_connect(asking, (server.host, server.port))
        except BaseException:
            asking.close()
            raise
        reader, writer = await asyncio.open_connection(sock=asking)
        try:
            wire = query.to_wire()
            writer.write(len(wire).to_bytes(2, "big") + wire)
            length = int.from_bytes(await reader.readexactly(2), "big")
            return _read(await reader.readexactly(length), query)
        except asyncio.IncompleteReadError as error:
            raise UnusableAnswer("its answer is cut short") from error
        finally:
            writer.transport.abort()


def _read(wire: bytes, query: dns.message.Message) -> dns.message.Message:
    try:
        answer = dns.message.from_wire(wire)
        fits = query.is_response(answer)
    except UNREADABLE as error:
        raise UnusableAnswer("it answers what is no DNS message") from error
    if not fits:
        raise UnusableAnswer("it answers another question than was asked")
    return answer
