"""The memory and processor time of an idle agent, without its Envoy.

The agents of a small demo without tunnels, an observed exit's and a gateway's, are sampled every second after their start is over.
The aim is for private memory: shared pages of libraries are in memory once for all agents of a host. The baseline is an interpreter
that has imported asyncio, gRPC, aiohttp and cryptography, and waits.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from bench.process import Memory, Process
from bench.report import figure, heading, spread_of
from demo.lab import LabSettings
from demo.setup import open_scene

AIM_MB: Final = 60.0
AIM_CPU: Final = 1.0
"""Percent of one processor."""
_SETTLED_S: Final = 20
_SHARE_OVER_S: Final = 10
_BARE: Final = "import asyncio, grpc, grpc.aio, aiohttp, cryptography.x509; print(flush=True); input()"


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench agent", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="how long they are looked at")
    return parser.parse_args(given)


def main(given: Sequence[str]) -> None:
    options = arguments(given)
    heading(f"agent: an exit's and a gateway's, in steady state for {options.seconds} s")
    ports = {"gateway_port": 0, "api_port": 0, "xds_port": 0}
    observing = ("--observe-every-s", "10")
    settings = LabSettings(exits=("us",), tunnels=False, exit_arguments=observing, **ports)
    with bare() as baseline, open_scene(settings) as scene:
        scene.start()
        time.sleep(_SETTLED_S)
        children = {"exit": scene.exits[0].child, "gateway": scene.gateway.child}
        seen = {name: ProcessUsage(Process(child.pid)) for name, child in children.items() if child is not None}
        for second in range(options.seconds + 1):
            for each in seen.values():
                each.look(share=second % _SHARE_OVER_S == 0)
            time.sleep(1)
        for name, each in seen.items():
            each.tell(name, baseline.memory)


@contextmanager
def bare() -> Iterator[Process]:
    """The baseline, while the block lasts."""
    pipe = subprocess.PIPE
    with subprocess.Popen((sys.executable, "-c", _BARE), stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield Process(process.pid)
        finally:
            process.terminate()


@dataclass
class ProcessUsage:
    """What was seen of a process."""

    process: Process
    memories: list[Memory] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    """Percent of one processor, each over the time since the one before."""
    _used_s: tuple[float, float] | None = None

    def look(self, *, share: bool) -> None:
        self.memories.append(self.process.memory)
        if share:
            now_s, cpu_s = time.monotonic(), self.process.cpu_s
            if self._used_s is not None:
                before_s, before_cpu_s = self._used_s
                self.shares.append((cpu_s - before_cpu_s) / (now_s - before_s) * 100)
            self._used_s = now_s, cpu_s

    def tell(self, name: str, baseline: Memory) -> None:
        private = [each.private_mb for each in self.memories]
        spread_of(f"{name}'s agent, private", private, "MB", below=AIM_MB, baseline=baseline.private_mb)
        for word in ("resident", "proportional", "mapped"):
            values = [getattr(each, f"{word}_mb") for each in self.memories]
            spread_of(f"  {word}", values, "MB", baseline=getattr(baseline, f"{word}_mb"))
        if self.shares:
            spread_of(f"{name}'s agent, of a processor", self.shares, "%")
            figure("  mean", statistics.fmean(self.shares), "%", below=AIM_CPU)
