"""Network interfaces of this namespace: their state, and sockets that are bound to them."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from contextlib import closing
from typing import Final

INTERFACE_NAME_MAX: Final = 15
"""Bytes of an interface's name (IFNAMSIZ without the final zero)."""
_SIOCGIFFLAGS: Final = 0x8913
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40


async def interface_trouble(name: str) -> str | None:
    """What is wrong with a network interface of this namespace.

    Asked of the kernel by ioctl, not read in /sys, which may show another namespace's. RUNNING stands for an
    operational state of `up` or, as tun and WireGuard devices have it, `unknown`.
    """
    request = struct.pack("16sH14x", name.encode()[:INTERFACE_NAME_MAX], 0)
    try:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asking:
            answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, request)
    except OSError as error:
        if error.errno != errno.ENODEV:
            return f"interface {name}: {error.strerror}"
        return f"interface {name} is not there"
    (flags,) = struct.unpack_from("H", answer, 16)
    return flags_trouble(name, flags)


def flags_trouble(name: str, flags: int) -> str | None:
    """What an interface's flags (netdevice(7)) say."""
    if not flags & _IFF_UP:
        return f"interface {name} is down"
    return None if flags & _IFF_RUNNING else f"interface {name} has no carrier"


def bound_socket(
    interface: str | None, source: str | None, family: int, kind: socket.SocketKind = socket.SOCK_STREAM
) -> socket.socket:
    """A socket, not connected and not blocking, that leaves by `interface` and from `source`. Raises OSError."""
    made = socket.socket(family, kind)
    try:
        made.setblocking(False)
        if interface is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        if source is not None:
            made.bind((source, 0))
    except OSError:
        made.close()
        raise
    return made
