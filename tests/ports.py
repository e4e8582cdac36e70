"""Reserves ports for servers that are started by number, so that nobody else is given them first."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


def reserve(address: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Hold a port of `address`; the caller closes the socket when the port may go to others.

    The socket never listens, so the port refuses until a server of this user binds it too, which has to set SO_REUSEPORT,
    as Envoy's listeners do. The kernel gives a held port to nobody who asks for any free one.
    """
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # then whoever looks whether a port is free, as servers do, finds that it is
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((address, port))
    except OSError:
        held.close()
        raise
    return held


@contextmanager
def reserved_port(address: str = "127.0.0.1") -> Iterator[int]:
    """Yield a port that is held until the end."""
    with reserve(address) as held:
        yield held.getsockname()[1]
