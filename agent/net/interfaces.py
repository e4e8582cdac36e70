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


async def check_interface(name: str) -> str | None:
    """Return what is wrong with a network interface of this namespace, or None.

    The kernel is asked by ioctl, as /sys may show another namespace. IFF_RUNNING means an operational state of `up`, or of `unknown` as
    tun and WireGuard devices have it.
    """
    request = struct.pack("16sH14x", name.encode()[:INTERFACE_NAME_MAX], 0)
    try:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as control:
            answer = fcntl.ioctl(control, _SIOCGIFFLAGS, request)
    except OSError as error:
        if error.errno != errno.ENODEV:
            return f"interface {name}: {error.strerror}"
        return f"interface {name} is not there"
    (flags,) = struct.unpack_from("H", answer, 16)
    return check_flags(name, flags)


def check_flags(name: str, flags: int) -> str | None:
    """Return what is wrong with an interface by its flags (netdevice(7)), or None."""
    if not flags & _IFF_UP:
        return f"interface {name} is down"
    return None if flags & _IFF_RUNNING else f"interface {name} has no carrier"


def bound_socket(
    interface: str | None, source: str | None, family: int, kind: socket.SocketKind = socket.SOCK_STREAM
) -> socket.socket:
    """Return a non-blocking socket that sends through `interface` and from the address `source`. Raises OSError."""
    bound = socket.socket(family, kind)
    try:
        bound.setblocking(False)
        if interface is not None:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        if source is not None:
            bound.bind((source, 0))
    except OSError:
        bound.close()
        raise
    return bound
