"""A guard of the xDS server's connections, which gRPC accepts out of Python's sight.

gRPC bounds how many there are, and the time of a TLS handshake. It cannot bound those of one address, nor choose which one to
close when there are too many. So the guard lists this process's own sockets, and shuts those that the table names.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final, NamedTuple
from urllib.parse import unquote

from model.client_address import unmapped
from model.connection_table import ConnectionLimits, ConnectionTable

_PERIOD_S: Final = 0.1
_COST_SHARE: Final = 20
"""Listing sockets takes at most this part of the time: 6 us for each descriptor of the process."""
_HEADROOM: Final = 4
"""The part of the connections that gRPC accepts beyond the guard's bound, for those that arrive between two listings."""
_DESCRIPTORS: Final = "/proc/self/fd"


class ClientEnd(NamedTuple):
    """The client's end of a connection."""

    address: str
    port: int


@dataclass(slots=True)
class _AcceptedSocket:
    descriptor: int
    peer: ClientEnd
    serving: bool


class ConnectionGuard:
    """Bounds the connections of the ports. Those without a call of an identified client wait; see ConnectionTable.

    A connection is known by the number of its socket (`st_ino`), which the kernel does not soon use again.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self.table = ConnectionTable[int]("xds", replace(limits, total=limits.total - limits.total // _HEADROOM))
        self.ports: Collection[int] = ()
        self._calls: Counter[ClientEnd] = Counter()
        self._connections: dict[int, _AcceptedSocket] = {}
        self._foreign: set[int] = set()
        """Sockets of this process that are not connections of the ports."""

    def options(self, listeners: int) -> list[tuple[str, int]]:
        """Options for gRPC's server with so many listening addresses."""
        return [
            ("grpc.max_allowed_incoming_connections", max(1, self._limits.total // listeners)),
            ("grpc.server_handshake_timeout_ms", int(self._limits.wait_s * 1000)),
        ]

    @contextmanager
    def call_of(self, peer: str) -> Iterator[None]:
        """Note that a client that gRPC calls `peer` is identified, and has a call while the block lasts."""
        parsed = parse_peer(peer)
        self._calls[parsed] += 1
        try:
            yield
        finally:
            self._calls[parsed] -= 1
            if not self._calls[parsed]:
                del self._calls[parsed]

    async def run(self) -> None:
        """Enforce the limits, until cancelled."""
        while True:
            began = time.thread_time()
            self.enforce()
            await asyncio.sleep(max(_PERIOD_S, (time.thread_time() - began) * _COST_SHARE))

    def enforce(self) -> None:
        """List the connections once, and shut those that are over the limits."""
        found = dict(_list_sockets())
        for number in self._connections.keys() - found.keys():
            del self._connections[number]
            self.table.remove(number)
        self._foreign &= found.keys()
        closed = []
        for number in found.keys() - self._connections.keys() - self._foreign:
            peer = self._find_peer(found[number])
            if peer is None:
                self._foreign.add(number)
                continue
            serving = peer in self._calls
            self._connections[number] = _AcceptedSocket(found[number], peer, serving)
            closed += self.table.add(number, peer.address, waits=not serving)
        for number, connection in self._connections.items():
            serving = connection.peer in self._calls
            if serving != connection.serving:
                connection.serving = serving
                (self.table.serve if serving else self.table.wait)(number)
        for number in (*closed, *self.table.overdue()):
            _shut(number, self._connections[number].descriptor)

    def _find_peer(self, descriptor: int) -> ClientEnd | None:
        """Return the client of a connection of the ports; None for another socket."""
        with suppress(OSError):
            opened = socket.socket(fileno=descriptor)
            try:
                if opened.family in (socket.AF_INET, socket.AF_INET6) and opened.getsockname()[1] in self.ports:
                    address, port = opened.getpeername()[:2]
                    return ClientEnd(unmapped(address), port)
            finally:
                opened.detach()
        return None


def parse_peer(peer: str) -> ClientEnd:
    """Parse gRPC's name of a client: `ipv4:192.0.2.1:50000`, or `ipv6:%5B2001:db8::1%5D:50000`."""
    address, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return ClientEnd(unmapped(address.strip("[]")), int(port))


def _list_sockets() -> Iterator[tuple[int, int]]:
    """Yield number and descriptor of each socket of this process."""
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - a path for each takes longer than the rest
        with suppress(OSError):  # closed meanwhile
            found = os.fstat(int(name))
            if stat.S_ISSOCK(found.st_mode):
                yield found.st_ino, int(name)


def _shut(number: int, descriptor: int) -> None:
    """Shut a socket, if the descriptor is still its own. gRPC then reads the end of the connection, and closes it."""
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as opened:
        if os.fstat(opened.fileno()).st_ino == number:
            opened.shutdown(socket.SHUT_RDWR)
