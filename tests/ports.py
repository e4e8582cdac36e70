"""Reservation of ports for servers that take a port number."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


def reserve(address: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Reserve a port of `address`; the caller closes the socket to release it.

    The socket never listens, so connections are refused until a server of this user binds the port with SO_REUSEPORT, as
    Envoy's listeners do. The kernel never assigns a bound port to a process that asks for any free one.
    """
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # so that a test whether the port is free, as servers do it, succeeds
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((address, port))
    except OSError:
        held.close()
        raise
    return held


@contextmanager
def reserved_port(address: str = "127.0.0.1") -> Iterator[int]:
    """Reserve a port while the block lasts."""
    with reserve(address) as held:
        yield held.getsockname()[1]
