"""The benchmark's handle of a fleet simulator (bench/simulator.py), which runs in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from array import array
from bisect import bisect_left
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.process import Process, terminating
from bench.report import print_value

AT_ONCE = 64


class SimulationError(RuntimeError):
    """Simulated proxies failed, so that there is nothing to measure."""


class Simulation:
    """A running simulator. Its methods send one command at a time, and wait for the reply."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = Process(process.pid)
        self._pipes = process
        self._folder = folder

    async def command(self, do: str, **fields: Any) -> dict[str, Any]:
        assert self._pipes.stdin is not None
        assert self._pipes.stdout is not None
        self._pipes.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        line = await self._pipes.stdout.readline()
        if not line:
            raise SimulationError("the simulator ended")
        return dict(json.loads(line))

    async def connect(
        self,
        port: int,
        count: int,
        counts: Mapping[str, int],
        *,
        first: int = 0,
        at_once: int = AT_ONCE,
        timeout_s: float = 300,
    ) -> float:
        """Connect proxies, wait until each holds `counts` resources of each type, and return the seconds that it took."""
        options = {"port": port, "first": first, "count": count, "at_once": at_once}
        answer = await self.command("connect", **options, counts=counts, timeout_s=timeout_s)
        if answer["missing"] or answer["lost"]:
            raise SimulationError(f"not all of {count} proxies connected and received everything: {answer}")
        return float(answer["seconds"])

    async def acknowledged(self, revision: int, timeout_s: float = 60) -> None:
        """Wait until every proxy has acknowledged this revision, or a later one."""
        answer = await self.command("await", revision=revision, timeout_s=timeout_s)
        if answer["missing"] or answer["lost"]:
            raise SimulationError(f"not all proxies acknowledged revision {revision}: {answer}")

    async def acknowledgements(self) -> Acknowledgements:
        """Read the acknowledgements since the last call."""
        path = self._folder / "acknowledgements"
        await self.command("acknowledgements", path=str(path))
        log = array("q")
        log.frombytes(path.read_bytes())
        path.unlink()
        return Acknowledgements(log)

    async def totals(self) -> dict[str, Any]:
        return await self.command("totals")


class Acknowledgements:
    """The times at which each proxy acknowledged endpoints, by revision."""

    def __init__(self, log: Sequence[int]) -> None:
        self._revisions: dict[int, list[int]] = {}
        self._times: dict[int, list[int]] = {}
        for proxy, revision, at in zip(log[0::3], log[1::3], log[2::3], strict=True):
            self._revisions.setdefault(proxy, []).append(revision)
            self._times.setdefault(proxy, []).append(at)

    def __len__(self) -> int:
        return sum(map(len, self._times.values()))

    def delays_s(self, revision: int, since_ns: int) -> list[float]:
        """Return the delays from `since_ns` until each proxy acknowledged `revision` or a later one, in ascending order."""
        delays = []
        for proxy, revisions in self._revisions.items():
            place = bisect_left(revisions, revision)
            if place < len(revisions):
                delays.append(max(0, self._times[proxy][place] - since_ns) / 1e9)
        return sorted(delays)


@asynccontextmanager
async def open_simulation(folder: Path, certificates: Sequence[Path], authority: Path) -> AsyncIterator[Simulation]:
    """Run a simulator with a proxy for each certificate while the block lasts."""
    command = (sys.executable, "-m", "bench.simulator")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, limit=2**24, start_new_session=True
    )
    async with terminating(process):
        simulation = Simulation(process, folder)
        await simulation.command("load", authority=str(authority), certificates=[str(path) for path in certificates])
        yield simulation


def report_memory(plane: Process, simulation: Simulation) -> None:
    """Print the memory of both processes."""
    print_value("control plane: resident", plane.resident_mb, "MB")
    print_value("control plane: resident at most", plane.peak_mb, "MB")
    print_value("simulator: resident at most", simulation.process.peak_mb, "MB")
