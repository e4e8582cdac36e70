"""A port that stays a test's own while the server on it stops and starts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port() -> Iterator[int]:
    """A port of 127.0.0.1 that the kernel gives to nobody else while the block lasts.

    The socket that holds it does not listen, so connections are refused until a server with SO_REUSEPORT listens beside it. Without
    it, the port of a server that stopped may become that of another test's, which then hears this one's clients.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
