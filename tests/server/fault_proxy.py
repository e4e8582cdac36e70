"""A TCP proxy in front of a port or a Unix socket that can stall, drop, delay and cut connections."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto

_CHUNK_BYTES = 65536
_REMEMBERED_BYTES = 65536
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with 0 s: closing sends RST and discards unsent bytes."""

Dial = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Fault(Enum):
    """A fault in one direction of a connection."""

    NONE = auto()
    STALL = auto()
    """Bytes stay where they are, and go on when the fault ends."""
    DROP = auto()
    """Bytes are read and discarded silently."""


class ProxiedDirection:
    """One direction of a proxied connection."""

    def __init__(self) -> None:
        self.carried = b""
        """The first bytes carried in this direction."""
        self.carried_bytes = 0
        self._fault = Fault.NONE
        self._open = asyncio.Event()
        self._open.set()
        self.delay_s = 0.0

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        if fault is Fault.STALL:
            self._open.clear()
        else:
            self._open.set()

    async def pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Carry bytes until either side ends. An end of file is passed on like bytes."""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._deliver(due, sink))
            while True:
                await self._open.wait()  # a stalled direction is not read, so that the sender's buffers fill
                try:
                    chunk = await source.read(_CHUNK_BYTES)
                except OSError:
                    chunk = b""  # bytes before a reset are still delivered
                await due.put((asyncio.get_running_loop().time() + self.delay_s, chunk))
                if not chunk:
                    return

    async def _deliver(self, due: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            at, chunk = await due.get()
            if (left_s := at - loop.time()) > 0:
                await asyncio.sleep(left_s)
            await self._open.wait()
            if self._fault is Fault.DROP:
                if not chunk:
                    return
                continue
            if not chunk:
                if sink.can_write_eof():
                    sink.write_eof()
                return
            self.carried = (self.carried + chunk)[:_REMEMBERED_BYTES]
            self.carried_bytes += len(chunk)
            sink.write(chunk)
            await sink.drain()


class ProxiedConnection:
    """One connection through the proxy; `up` is the direction to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.up, self.down = ProxiedDirection(), ProxiedDirection()
        self.ended = asyncio.Event()
        self._writers = (client, server)

    def has_sent(self, content: bytes) -> bool:
        """Return whether the client sent these bytes, unencrypted."""
        return content in self.up.carried

    def stall(self) -> None:
        self.up.fault = self.down.fault = Fault.STALL

    def drop(self) -> None:
        """Discard the bytes of both sides."""
        self.up.fault = self.down.fault = Fault.DROP

    def delay(self, each_way_s: float) -> None:
        self.up.delay_s = self.down.delay_s = each_way_s

    def heal(self) -> None:
        self.up.fault = self.down.fault = Fault.NONE
        self.delay(0)

    def reset(self) -> None:
        """End both sides with RST."""
        for writer in self._writers:
            if not writer.is_closing():
                sock = writer.get_extra_info("socket")
                with suppress(OSError):  # a Unix socket knows no RST
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    def finish(self) -> None:
        """End both sides with FIN."""
        for writer in self._writers:
            writer.close()


class FaultProxy:
    """A proxy whose connections pass until a fault is set: on one, on all, or on future ones (`on_connect`).

    Fixtures can use it as a server, because it has `ports`.
    """

    def __init__(self, dial: Dial) -> None:
        self.port = 0
        self.connections: list[ProxiedConnection] = []
        """All connections ever made, in their order."""
        self.on_connect: Callable[[ProxiedConnection], object] = lambda _: None
        """Called with each new connection."""
        self.refuses = False
        """If True, new connections are reset at once."""
        self._dial = dial
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def ports(self) -> list[int]:
        return [self.port]

    @property
    def living(self) -> list[ProxiedConnection]:
        return [each for each in self.connections if not each.ended.is_set()]

    def cut(self, *, reset: bool = True) -> None:
        """End all connections, and refuse new ones until `heal`."""
        self.refuses = True
        for each in self.living:
            each.reset() if reset else each.finish()

    def each(self, fault: Callable[[ProxiedConnection], object]) -> None:
        """Apply a fault to all connections, and to new ones."""
        self.on_connect = fault
        for connection in self.living:
            fault(connection)

    def heal(self, connections: Iterable[ProxiedConnection] | None = None) -> None:
        """End the faults of these connections (default: all), and accept new ones."""
        self.refuses = False
        self.on_connect = lambda _: None
        for each in self.living if connections is None else connections:
            each.heal()

    @asynccontextmanager
    async def run(self, listening: socket.socket | None = None) -> AsyncIterator[FaultProxy]:
        """Serve while the block lasts, on a port of 127.0.0.1 unless a socket is given."""
        self._server = await asyncio.start_server(
            self._accept, sock=listening or socket.create_server(("127.0.0.1", 0))
        )
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._server.close()
            self.refuses = True  # connections accepted by the kernel before the close
            for each in self.living:
                each.reset()
            for task in [*self._tasks]:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())  # also if it was cancelled while dialling

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await self._dial()
        except OSError:
            return
        connection = ProxiedConnection(writer, server_writer)
        self.connections.append(connection)
        self.on_connect(connection)
        try:
            with suppress(OSError, ExceptionGroup):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(connection.up.pump(reader, server_writer))
                    tasks.create_task(connection.down.pump(server_reader, writer))
        finally:
            connection.ended.set()
            server_writer.transport.abort()


@asynccontextmanager
async def before_port(port: int) -> AsyncIterator[FaultProxy]:
    """Run a proxy in front of a port of this host."""
    async with FaultProxy(lambda: asyncio.open_connection("127.0.0.1", port)).run() as proxy:
        yield proxy


@asynccontextmanager
async def before_unix_socket(path: str) -> AsyncIterator[FaultProxy]:
    """Run a proxy in front of a Unix socket."""
    async with FaultProxy(lambda: asyncio.open_unix_connection(path)).run() as proxy:
        yield proxy
