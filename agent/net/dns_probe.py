"""Asking one resolver (RFC 1035) through the tunnel: for addresses, and whether it answers at all."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from typing import Final

import dns.exception
import dns.flags
import dns.message
from dns.rdatatype import RdataType

from agent.net.dns_query import UNREADABLE
from agent.vpn.tunnel_health import socket_through

A: Final = RdataType.A
NS: Final = RdataType.NS
AAAA: Final = RdataType.AAAA
PORT: Final = 53
_LONGEST: Final = 4096


class DnsUnanswered(Exception):
    """A resolver did not answer, or answered with what is no answer."""


def decode_addresses(number: int, wire: bytes) -> list[str]:
    """The addresses in the answer to question `number`, in its order. Raises Unanswered."""
    try:
        answer = dns.message.from_wire(wire)
        found = [each.address for records in answer.answer for each in records if records.rdtype in (A, AAAA)]
    except UNREADABLE as error:
        raise DnsUnanswered("is garbled") from error
    if answer.id != number or not answer.flags & dns.flags.QR:
        raise DnsUnanswered("is no answer to the question")
    return found


async def ask(
    resolver: str, name: str, kind: RdataType, *, within_s: float, interface: str | None = None, port: int = PORT
) -> list[str]:
    """Addresses that `resolver` (an IP address) gives for a name, asked by UDP through `interface`. Raises Unanswered.

    An answer without addresses, even an error, is an empty list: somebody answered.
    """
    family = socket.AF_INET6 if ":" in resolver else socket.AF_INET
    loop = asyncio.get_running_loop()
    try:
        query = dns.message.make_query(name, kind)
        with closing(socket_through(interface, None, family, socket.SOCK_DGRAM)) as asking:
            asking.connect((resolver, port))  # answers of others are not heard
            async with asyncio.timeout(within_s):
                await loop.sock_sendall(asking, query.to_wire())
                return decode_addresses(query.id, await loop.sock_recv(asking, _LONGEST))
    except TimeoutError as error:
        raise DnsUnanswered("does not answer") from error
    except (OSError, dns.exception.DNSException) as error:
        raise DnsUnanswered(f"cannot be asked ({error})") from error
