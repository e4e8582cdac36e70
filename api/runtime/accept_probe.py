"""A probe of this replica's own API, so that silence counts only while heartbeats can get in.

See docs/decisions/0006-silence-counts-within-the-ingest-window.md.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import structlog

log = structlog.get_logger()
_REQUEST: Final = b"GET /health/startup HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_OK: Final = b"HTTP/1.1 200 "


class AcceptProbe:
    """Sends a request to each listening socket every `period_s`, over a new connection as a stranger would.

    It fails when descriptors have run out, when the queue of new connections is full, when strangers fill the server, or when
    the event loop is starved.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        clock: Callable[[], datetime],
        *,
        period_s: float = 0.5,
        timeout_s: float = 2.0,
        tls: bool = False,
    ) -> None:
        self._addresses = [_dialled(each) for each in sockets]
        self._clock = clock
        self._period_s = period_s
        self._timeout_s = timeout_s
        self._tls = _unverified_context() if tls else None
        self._reached = True
        self.reached_at: datetime | None = None
        """The time of the last success; None before the first."""

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            reached = await self.check()
            if reached != self._reached:
                (log.info if reached else log.warning)("api.accepts_again" if reached else "api.accepts_nothing")
            self._reached = reached
            await asyncio.sleep(self._period_s)

    async def check(self) -> bool:
        """Send the requests, and note the time if all are answered."""
        try:
            async with asyncio.timeout(self._timeout_s):
                for host, port in self._addresses:
                    await _request(host, port, self._tls)
        except (OSError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
            return False
        self.reached_at = self._clock()
        return True


async def _request(host: str, port: int, tls: ssl.SSLContext | None) -> None:
    """Request the health of a listener. Raises OSError and asyncio.IncompleteReadError."""
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        writer.write(_REQUEST)
        if await reader.readexactly(len(_OK)) != _OK:
            raise ConnectionError
    finally:
        writer.transport.abort()


def _unverified_context() -> ssl.SSLContext:
    """Return a context that accepts any certificate: the probe dials a socket of its own process, and sends no secret."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _dialled(listening: socket.socket) -> tuple[str, int]:
    host, port = listening.getsockname()[:2]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104 - it listens on all addresses
