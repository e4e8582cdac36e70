"""A process of a benchmark: its ports, its memory and processor time, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

STOP_S = 20
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of a process. Mapped files are resident in each process that maps them, but in memory only once."""

    resident_mb: float
    proportional_mb: float
    """Shared memory counts in equal parts for the processes that share it."""
    private_mb: float
    mapped_mb: float
    """Resident and unchanged from a file."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process and its figures in /proc."""

    pid: int

    @property
    def cpu_s(self) -> float:
        """Processor time of all its threads so far, in user and kernel mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def resident_mb(self) -> float:
        return self._status_mb("VmRSS")

    @property
    def peak_mb(self) -> float:
        """The peak of resident memory."""
        return self._status_mb("VmHWM")

    @property
    def memory(self) -> Memory:
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]
        mb = {name.rstrip(":"): int(value) / 1024 for name, value, _ in (line.split() for line in lines)}
        private = mb["Private_Clean"] + mb["Private_Dirty"]
        return Memory(mb["Rss"], mb["Pss"], private, mb["Rss"] - mb["Anonymous"])

    def _status_mb(self, name: str) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
        raise LookupError(name)


@asynccontextmanager
async def terminating(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """Terminate a process at the end of the block."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def free_port() -> int:
    """Find a port on which no server listens now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
