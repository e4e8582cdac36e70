"""The kernel's routing decision for an address, asked by rtnetlink(7). No packet is sent."""

from __future__ import annotations

import os
import socket
import struct
import sys
from contextlib import closing
from ipaddress import ip_address
from typing import Final

_RTM_GETROUTE: Final = 26
_NLM_F_REQUEST: Final = 1
_NLMSG_ERROR: Final = 2
_RTA_DST: Final = 1
_RTA_SRC: Final = 2
_RTA_OIF: Final = 4
_HEADER: Final = struct.Struct("=IHHII")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_TIMEOUT_S: Final = 1.0
_UNREACHABLE_TYPES: Final = frozenset({6, 7, 8, 9})
"""Types of routes that lead nowhere: blackhole, unreachable, prohibit, throw."""


def interface_towards(address: str, source: str | None = None) -> str | None:
    """Return the interface by which an unbound socket reaches an IP address, or None if there is no route.

    `source` is the address that the socket is bound to, of the same family: there may be routes for that address alone.
    """
    target = ip_address(address)
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    bits = target.max_prefixlen
    request = _ROUTE.pack(family, bits, 0 if source is None else bits, 0, 0, 0, 0, 0, 0) + _attribute(
        _RTA_DST, target.packed
    )
    if source is not None:
        request += _attribute(_RTA_SRC, ip_address(source).packed)
    head = _HEADER.pack(_HEADER.size + len(request), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
    try:
        with closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)) as kernel:
            kernel.settimeout(_TIMEOUT_S)
            kernel.send(head + request)
            index = _outgoing(kernel.recv(65_536))
        return None if index is None else socket.if_indextoname(index)
    except OSError:
        return None


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _outgoing(answer: bytes) -> int | None:
    """Return the index of the interface in the kernel's answer. Raises OSError with the kernel's error code."""
    length, kind, *_ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _HEADER.size)
        raise OSError(-code, os.strerror(-code))
    if _ROUTE.unpack_from(answer, _HEADER.size)[7] in _UNREACHABLE_TYPES:
        return None
    offset = _HEADER.size + _ROUTE.size
    while offset + _ATTRIBUTE.size <= length:
        size, attribute = _ATTRIBUTE.unpack_from(answer, offset)
        if attribute == _RTA_OIF:
            return int.from_bytes(answer[offset + _ATTRIBUTE.size : offset + size], sys.byteorder)
        offset += max(_ATTRIBUTE.size, (size + 3) & ~3)
    return None
