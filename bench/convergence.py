"""Time of an endpoint change from the REST reply to the gateway's ACK, with one real gateway Envoy.

Each change moves one exit of a pool to another port by PATCH, and waits for the ACK of the EDS response with its revision.
The control plane runs in this process, so that both times are from one clock; the client runs in a thread. The baseline of
the same run, `request`, is the time of the PATCH itself, which includes PostgreSQL's commit.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit
from uuid import UUID

from bench.control_plane import InProcessPlane, open_plane
from bench.report import print_times
from model.entities import Rejection, Role
from model.exit_states import ExitState
from model.identity import Identity
from model.repositories import exits
from model.unit_of_work import write
from xds.protocol.stream import Answered
from xds.server import server
from xds.server.recorder import AckRecorder
from xds.snapshot.snapshot import ProxyView
from xds.translate.names import ENDPOINT

CHANGES = 200
EXITS = 10
APART_S = 0.05
"""The pause between changes, longer than the debounce, so that each change is published alone."""


class AckTimes:
    """The time of the first ACK of each revision, on the clock of `time.perf_counter`."""

    def __init__(self) -> None:
        self._times: dict[int, float] = {}
        self._changed = asyncio.Event()

    def note(self, revision: int) -> None:
        self._times.setdefault(revision, time.perf_counter())
        self._changed.set()

    async def of(self, revision: int) -> float:
        """Return the time when `revision`, or a later one, was first acknowledged."""
        async with asyncio.timeout(10):
            while True:
                later = [at for acknowledged, at in self._times.items() if acknowledged >= revision]
                if later:
                    return min(later)
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def recording(acks: AckTimes) -> AsyncIterator[None]:
    """Record the ACKs of endpoints by gateways while the block lasts."""

    class RecordingAckRecorder(AckRecorder):
        def record_answer(
            self, identity: Identity, view: ProxyView, answered: Answered, *, withheld: bool
        ) -> Sequence[Rejection]:
            if identity.role is Role.GATEWAY and answered.type_url == ENDPOINT and answered.error is None:
                acks.note(answered.revision)
            return super().record_answer(identity, view, answered, withheld=withheld)

    with patch.object(server, "AckRecorder", RecordingAckRecorder):
        yield


async def measure() -> None:
    acks = AckTimes()
    with tempfile.TemporaryDirectory(prefix="exitplane-bench-") as folder:
        async with recording(acks), open_plane(Path(folder)) as plane:
            exits = await declare(plane)
            async with plane.gateway():
                await acks.of(0)
                requests_s, delays_s = [], []
                for number in range(CHANGES):
                    exit_id = exits[number % EXITS]
                    sent, replied, revision = await asyncio.to_thread(change, plane, exit_id, 20_000 + number)
                    requests_s.append(replied - sent)
                    delays_s.append(max(0.0, await acks.of(revision) - replied))
                    await asyncio.sleep(APART_S)
    print_times("REST reply -> gateway's ACK", delays_s)
    print_times("baseline: request", requests_s)


async def declare(plane: InProcessPlane) -> Sequence[UUID]:
    """Declare a fleet, a pool and its exits, and mark the exits healthy although they do not run."""
    listener = {"address": "127.0.0.1", "port": plane.gateway_port}
    await asyncio.to_thread(call, plane, "POST", "/fleets", {"name": "bench", "listener": listener})
    await asyncio.to_thread(call, plane, "POST", "/pools", {"name": "us", "fleet": "bench", "country": "us"})
    ids = []
    for number in range(EXITS):
        body = {"name": f"us-{number}", "pool": "us", "address": "127.0.0.1", "port": 10_000 + number}
        _, made = await asyncio.to_thread(call, plane, "POST", "/exits", body)
        ids.append(UUID(made["id"]))
    async with write(plane.database) as unit:
        for exit_id in ids:
            await exits.change_state(unit, exit_id, ExitState.REGISTERING, ExitState.HEALTHY, "", datetime.now(UTC))
    return ids


def change(plane: InProcessPlane, exit_id: UUID, port: int) -> tuple[float, float, int]:
    """Move an exit to another port, and return the times of request and reply, and the revision."""
    sent = time.perf_counter()
    headers, _ = call(plane, "PATCH", f"/exits/{exit_id}", {"port": port})
    return sent, time.perf_counter(), int(headers["exitplane-revision"])


def call(plane: InProcessPlane, method: str, path: str, body: object) -> tuple[http.client.HTTPMessage, dict[str, Any]]:
    parts = urlsplit(plane.api_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {plane.api_key}"}
        connection.request(method, f"/api/v1{path}", json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {text.decode()}")
        return response.headers, json.loads(text)
    finally:
        connection.close()


def main(argv: Sequence[str]) -> None:
    if argv:
        raise SystemExit("convergence takes no options")
    asyncio.run(measure())
