"""What the agent says to its control plane behind a kill switch carries a mark, so that nobody else may say anything there.

Clients may name the control plane's address too, and their connections leave from the same namespace. Whatever the agent dials
itself is marked as it is made; gRPC offers no such thing, so it dials a socket in the state folder, and a `MarkedForwarder` goes on.
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

DIAL_WITHIN_S: Final = 3.0
_CHUNK: Final = 65_536


def marked_socket(place: tuple[Any, ...]) -> socket.socket:
    """A socket for a place (as getaddrinfo gives it) that the kill switch lets out. Raises OSError without CAP_NET_ADMIN."""
    made = socket.socket(*place[:3])
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, BYPASS_MARK)
    except OSError:
        made.close()
        raise
    return made


class MarkedForwarder:
    """Passes on each connection to a socket in the folder, as it is, to `place`; from `start` to `stop`."""

    def __init__(self, folder: StateDir, place: Endpoint) -> None:
        self._folder = folder
        self._place = place
        self._held = ExitStack()
        self._path = self._held.enter_context(folder.short_path(files.FORWARDER_SOCKET))
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[None]] = set()

    @property
    def target(self) -> str:
        """What gRPC dials."""
        return f"unix:{self._path}"

    async def start(self) -> None:
        """Listen. Raises OSError."""
        self._folder.remove(files.FORWARDER_SOCKET)  # one that a killed agent left
        self._server = await asyncio.start_unix_server(self._take, self._path)
        (self._folder.path / files.FORWARDER_SOCKET).chmod(0o600)

    async def stop(self) -> None:
        """Listen no more, and end what is open."""
        if self._server is not None:
            self._server.close()
            self._folder.remove(files.FORWARDER_SOCKET)
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)
        self._held.close()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass(reader, writer), name="passage")
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)
        task.add_done_callback(lambda _: writer.close())  # also when it was cancelled before it began

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either side ends."""
        try:
            far_reader, far_writer = await self._dial()
        except OSError as error:
            log.debug("passage.closed", place=str(self._place), reason=str(error))
            writer.transport.abort()
            return
        ways = [asyncio.create_task(_pump(reader, far_writer)), asyncio.create_task(_pump(far_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.close()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Try every address of the place, in order. Raises OSError with what the last one said."""
        loop = asyncio.get_running_loop()
        failed = OSError(f"{self._place} has no address")
        async with asyncio.timeout(DIAL_WITHIN_S):
            for found in await loop.getaddrinfo(self._place.host, self._place.port, type=socket.SOCK_STREAM):
                dialled = None
                try:
                    dialled = marked_socket(found)
                    await loop.sock_connect(dialled, found[4])
                    return await asyncio.open_connection(sock=dialled)
                except BaseException as error:
                    if dialled is not None:
                        dialled.close()
                    if not isinstance(error, OSError):
                        raise
                    failed = error
        raise failed


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
