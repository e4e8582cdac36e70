"""A port that stays reserved while the server on it stops and starts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port() -> Iterator[int]:
    """Reserve a port of 127.0.0.1 while the block lasts.

    The reserving socket does not listen, so connections are refused until a server with SO_REUSEPORT listens. Otherwise
    another test might get the port of a stopped server, and this test's clients.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
