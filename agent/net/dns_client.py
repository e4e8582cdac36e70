"""A DNS client (RFC 1035): one question to one resolver, by UDP, and by TCP when the answer is truncated.

A question takes the route that the kernel chooses, as Envoy's own questions do, unless it is bound to an interface. Answers are
untrusted bytes: one that does not parse, or answers another question, is skipped while the true one may still come.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.rcode
from dns.rdatatype import RdataType

from agent.net.interfaces import bound_socket
from model.endpoint import Endpoint

A: Final = RdataType.A
AAAA: Final = RdataType.AAAA
NS: Final = RdataType.NS
TXT: Final = RdataType.TXT
PORT: Final = 53
WAITS_S: Final = (1.0, 2.0)
"""Waits for an answer by UDP, one for each attempt, unless the caller says otherwise."""
_TCP_S: Final = 3.0
_BYTES_MAX: Final = 65_535
_PARSE_ERRORS: Final = (dns.exception.DNSException, ValueError, LookupError, struct.error, RecursionError)
"""All that dnspython raises for bytes that are no message."""


class DnsError(Exception):
    """A question without a usable answer. The text stays the same while the cause does."""


class NoDnsAnswer(DnsError):
    """The resolver cannot be reached, or does not answer in time."""


class BadDnsAnswer(DnsError):
    """The answer is no DNS message, or answers another question."""


class DnsErrorCode(DnsError):
    """The resolver answers with an error."""


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """An answer: its code, and the values of its A, AAAA and TXT records in their order."""

    rcode: dns.rcode.Rcode
    addresses: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, message: dns.message.Message) -> DnsAnswer:
        """Take the values out of a message. Text that is not ASCII has replacement characters."""
        records = [record for records in message.answer for record in records]
        return cls(
            message.rcode(),
            tuple(str(each.address) for each in records if each.rdtype in {A, AAAA}),
            tuple(
                text.decode("ascii", errors="replace")
                for each in records
                if each.rdtype == TXT
                for text in each.strings
            ),
        )

    def raise_for_rcode(self) -> None:
        """Raise DnsErrorCode unless the code is NOERROR."""
        if self.rcode == dns.rcode.NXDOMAIN:
            raise DnsErrorCode("it says that there is no such name")
        if self.rcode != dns.rcode.NOERROR:
            raise DnsErrorCode(f"it answers {dns.rcode.to_text(self.rcode)}")


async def query(
    name: str,
    kind: RdataType | str,
    server: Endpoint,
    *,
    interface: str | None = None,
    waits_s: Sequence[float] | None = None,
) -> DnsAnswer:
    """Ask `server` (an IP address and a port) a question, through `interface` if one is given.

    It is sent once for each of `waits_s`, the seconds to wait for an answer. Raises NoDnsAnswer and BadDnsAnswer.
    """
    question = dns.message.make_query(name, kind)
    try:
        message = await _query_by_udp(question, server, interface, WAITS_S if waits_s is None else waits_s)
        if message.flags & dns.flags.TC:
            message = await _query_by_tcp(question, server, interface)
    except TimeoutError as error:
        raise NoDnsAnswer("it does not answer in time") from error
    except OSError as error:
        raise NoDnsAnswer("it cannot be reached") from error
    return DnsAnswer.of(message)


async def _query_by_udp(
    question: dns.message.Message, server: Endpoint, interface: str | None, waits_s: Sequence[float]
) -> dns.message.Message:
    loop = asyncio.get_running_loop()
    bad = None
    with closing(bound_socket(interface, None, _family(server), socket.SOCK_DGRAM)) as udp:
        await loop.sock_connect(udp, (server.host, server.port))
        for wait_s in waits_s:
            try:
                async with asyncio.timeout(wait_s):
                    await loop.sock_sendall(udp, question.to_wire())
                    while True:
                        try:
                            return parse_answer(await loop.sock_recv(udp, _BYTES_MAX), question)
                        except BadDnsAnswer as error:
                            bad = error
            except TimeoutError:
                continue
    raise bad or TimeoutError


async def _query_by_tcp(question: dns.message.Message, server: Endpoint, interface: str | None) -> dns.message.Message:
    async with asyncio.timeout(_TCP_S):
        tcp = bound_socket(interface, None, _family(server))
        try:
            await asyncio.get_running_loop().sock_connect(tcp, (server.host, server.port))
        except BaseException:
            tcp.close()
            raise
        reader, writer = await asyncio.open_connection(sock=tcp)
        try:
            wire = question.to_wire()
            writer.write(len(wire).to_bytes(2, "big") + wire)
            length = int.from_bytes(await reader.readexactly(2), "big")
            return parse_answer(await reader.readexactly(length), question)
        except asyncio.IncompleteReadError as error:
            raise BadDnsAnswer("its answer is cut short") from error
        finally:
            writer.transport.abort()


def parse_answer(wire: bytes, question: dns.message.Message) -> dns.message.Message:
    """Parse the answer to a question. Raises BadDnsAnswer."""
    try:
        answer = dns.message.from_wire(wire)
        fits = question.is_response(answer)
    except _PARSE_ERRORS as error:
        raise BadDnsAnswer("it answers what is no DNS message") from error
    if not fits:
        raise BadDnsAnswer("it answers another question than was asked")
    return answer


def _family(server: Endpoint) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in server.host else socket.AF_INET
