"""As much of DNS (RFC 1035) as an agent needs: to ask one resolver for addresses, and to see that one answers."""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address
from typing import Final

A: Final = 1
NS: Final = 2
AAAA: Final = 28
PORT: Final = 53
_HEADER: Final = struct.Struct("!6H")
_RECURSION_WANTED: Final = 0x0100
_RESPONSE: Final = 0x8000
_TRUNCATED_MAX: Final = 4096
_POINTER: Final = 0xC0


class Unanswered(Exception):
    """A resolver did not answer, or answered with what is no answer."""


def encode_query(number: int, name: str, kind: int) -> bytes:
    """A question. Raises UnicodeError for what is no name."""
    labels = [label.encode("idna") for label in name.rstrip(".").split(".") if label]
    encoded = b"".join(bytes([len(label)]) + label for label in labels)
    return _HEADER.pack(number, _RECURSION_WANTED, 1, 0, 0, 0) + encoded + b"\0" + struct.pack("!2H", kind, 1)


def decode_addresses(number: int, message: bytes) -> list[str]:
    """The addresses in the answer to question `number`, in its order. Raises Unanswered."""
    try:
        answered, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
        if answered != number or not flags & _RESPONSE:
            raise Unanswered("is no answer to the question")
        place = _HEADER.size
        for _ in range(questions):
            place = _skip_name(message, place) + 4
        found = []
        for _ in range(answers):
            place = _skip_name(message, place)
            kind, _, _, length = struct.unpack_from("!2HIH", message, place)
            data = message[place + 10 : place + 10 + length]
            place += 10 + length
            if kind == A:
                found.append(str(IPv4Address(data)))
            elif kind == AAAA:
                found.append(str(IPv6Address(data)))
    except (struct.error, IndexError, ValueError) as error:
        raise Unanswered("is garbled") from error
    return found


def _skip_name(message: bytes, place: int) -> int:
    while (length := message[place]) != 0:
        if length & _POINTER == _POINTER:
            return place + 2
        place += length + 1
    return place + 1


async def ask(
    resolver: str, name: str, kind: int, *, within_s: float, interface: str | None = None, port: int = PORT
) -> list[str]:
    """Addresses that `resolver` (an IP address) gives for a name, asked by UDP through `interface`. Raises Unanswered.

    An answer without addresses, even an error, is an empty list: somebody answered.
    """
    family = socket.AF_INET6 if ":" in resolver else socket.AF_INET
    number = secrets.randbelow(0x10000)
    loop = asyncio.get_running_loop()
    try:
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as asking:
            asking.setblocking(False)
            if interface is not None:
                asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
            asking.connect((resolver, port))  # answers of others are not heard
            async with asyncio.timeout(within_s):
                await loop.sock_sendall(asking, encode_query(number, name, kind))
                return decode_addresses(number, await loop.sock_recv(asking, _TRUNCATED_MAX))
    except TimeoutError as error:
        raise Unanswered("does not answer") from error
    except (OSError, UnicodeError) as error:
        raise Unanswered(f"cannot be asked ({error})") from error
