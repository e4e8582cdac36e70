"""The listener of metrics: GET /metrics, without credentials, on an address of its own (docs/metrics.md)."""

from __future__ import annotations

import asyncio
import platform
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import uvicorn
from starlette.types import Receive, Scope, Send

from api.http.connections import BoundedProtocol, close_overdue, server_config
from model.connection_table import ConnectionLimits, ConnectionTable
from model.database import Database
from model.repositories import gauges
from model.telemetry import metrics
from model.telemetry.exposition import CONTENT_TYPE, render
from model.telemetry.metrics import Sample, SampleSource
from model.version import exitplane_version

_STOP_S: Final = 1
_CONNECTIONS_MAX: Final = 32
"""Connections at once. One more takes the place of the one that has waited longest for its answer."""


class MetricsApp:
    """Answers scrapes one at a time, so that many at once cost no more than one after another."""

    def __init__(self, database: Database, sources: Sequence[SampleSource], silence_timeout_s: float) -> None:
        self._database = database
        self._silence_timeout_s = silence_timeout_s
        self._sources = sources
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] != "/metrics":
            await _respond(send, 404, b"see /metrics\n")
        elif scope["method"] not in ("GET", "HEAD"):
            await _respond(send, 405, b"use GET\n")
        else:
            async with self._turn:
                body = await self.scrape()
            await _respond(send, 200, body if scope["method"] == "GET" else b"", CONTENT_TYPE)

    async def scrape(self) -> bytes:
        """Read all metrics now, in the text format of Prometheus."""
        build = Sample(metrics.BUILD_INFO, 1, (exitplane_version(), platform.python_version()))
        samples = [build, *await gauges.read(self._database, self._silence_timeout_s)]
        for source in self._sources:
            samples += source()
        return render(samples)


async def _respond(send: Send, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serve_metrics(
    sockets: list[socket.socket], database: Database, sources: Sequence[SampleSource], silence_timeout_s: float
) -> AsyncIterator[None]:
    """Serve metrics on listening sockets while the block lasts; without sockets nothing runs.

    A gateway without a heartbeat within `silence_timeout_s` counts as silent.
    """
    if not sockets:
        yield
        return
    limits = ConnectionLimits(total=_CONNECTIONS_MAX, waiting_per_address=_CONNECTIONS_MAX)
    table = ConnectionTable[BoundedProtocol]("metrics", limits)
    config = server_config(MetricsApp(database, sources, silence_timeout_s), table, timeout_graceful_shutdown=_STOP_S)
    server = _MetricsServer(config)
    async with asyncio.TaskGroup() as tasks:
        closing = tasks.create_task(close_overdue(table), name="metrics.connections")
        serving = tasks.create_task(server.serve(sockets=sockets), name="metrics")
        try:
            yield
        finally:
            server.should_exit = True
            with suppress(asyncio.CancelledError):
                await serving
            closing.cancel()


class _MetricsServer(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the control plane, which stops more than this."""
        yield
