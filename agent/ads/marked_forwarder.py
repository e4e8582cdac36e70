"""Marked connections from the agent to its control plane, which the kill switch lets out.

Clients' connections leave from the same network namespace and may name the control plane too, so the kill switch checks a mark
(SO_MARK), not the address. gRPC cannot mark its sockets. It connects to a Unix socket in the state folder, and a `MarkedForwarder`
relays the bytes.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, suppress
from typing import Any, Final

import structlog

from agent.config import state_dir as files
from agent.config.state_dir import StateDir
from agent.net.packet_marks import BYPASS_MARK
from model.endpoint import Endpoint

log = structlog.get_logger()

CONNECT_TIMEOUT_S: Final = 3.0
_CHUNK: Final = 65_536


def marked_socket(info: tuple[Any, ...]) -> socket.socket:
    """Create a socket that the kill switch lets out, for an entry of getaddrinfo. Raises OSError without CAP_NET_ADMIN."""
    made = socket.socket(*info[:3])
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, BYPASS_MARK)
    except OSError:
        made.close()
        raise
    return made


class MarkedForwarder:
    """Relays connections from a Unix socket in the state folder to `endpoint`, between `start` and `stop`."""

    def __init__(self, folder: StateDir, endpoint: Endpoint) -> None:
        self._folder = folder
        self._endpoint = endpoint
        self._exit_stack = ExitStack()
        self._path = self._exit_stack.enter_context(folder.short_path(files.FORWARDER_SOCKET))
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def target(self) -> str:
        """The target that gRPC connects to."""
        return f"unix:{self._path}"

    async def start(self) -> None:
        """Listen. Raises OSError."""
        self._folder.remove(files.FORWARDER_SOCKET)  # a killed agent leaves its socket behind
        self._server = await asyncio.start_unix_server(self._accept, self._path)
        (self._folder.path / files.FORWARDER_SOCKET).chmod(0o600)

    async def stop(self) -> None:
        """Stop listening, and close all connections."""
        if self._server is not None:
            self._server.close()
            self._folder.remove(files.FORWARDER_SOCKET)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._exit_stack.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._forward(reader, writer), name="forwarder")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        task.add_done_callback(lambda _: writer.close())  # a task cancelled before it starts closes nothing itself

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay both directions until either side closes."""
        try:
            upstream_reader, upstream_writer = await self._connect()
        except OSError as error:
            log.debug("forwarder.connect_failed", endpoint=str(self._endpoint), reason=str(error))
            writer.transport.abort()
            return
        pumps = [
            asyncio.create_task(_pump(reader, upstream_writer)),
            asyncio.create_task(_pump(upstream_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            upstream_writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the first address that answers. Raises OSError with the last address's error."""
        loop = asyncio.get_running_loop()
        last_error = OSError(f"{self._endpoint} has no address")
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            for info in await loop.getaddrinfo(self._endpoint.host, self._endpoint.port, type=socket.SOCK_STREAM):
                connection = None
                try:
                    connection = marked_socket(info)
                    await loop.sock_connect(connection, info[4])
                    return await asyncio.open_connection(sock=connection)
                except BaseException as error:
                    if connection is not None:
                        connection.close()
                    if not isinstance(error, OSError):
                        raise
                    last_error = error
        raise last_error


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
