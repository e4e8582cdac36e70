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
from bench.report import print_amounts, print_heading, print_value
from demo.lab import LabSettings
from demo.setup import open_lab

AIM_MB: Final = 60.0
AIM_CPU: Final = 1.0
"""Percent of one processor."""
_SETTLED_S: Final = 20
_SHARE_OVER_S: Final = 10
_BASELINE: Final = "import asyncio, grpc, grpc.aio, aiohttp, cryptography.x509; print(flush=True); input()"


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench agent", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="duration of the sampling")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    print_heading(f"agent: an exit's and a gateway's, in steady state for {options.seconds} s")
    observing = ("--observe-every-s", "10")
    settings = LabSettings(
        exits=("us",), tunnels=False, exit_arguments=observing, gateway_port=0, api_port=0, xds_port=0
    )
    with run_baseline() as baseline, open_lab(settings) as lab:
        lab.start()
        time.sleep(_SETTLED_S)
        children = {"exit": lab.exits[0].child, "gateway": lab.gateway.child}
        usages = {name: ProcessUsage(Process(child.pid)) for name, child in children.items() if child is not None}
        for second in range(options.seconds + 1):
            for each in usages.values():
                each.sample(share=second % _SHARE_OVER_S == 0)
            time.sleep(1)
        for name, each in usages.items():
            each.report(name, baseline.memory)


@contextmanager
def run_baseline() -> Iterator[Process]:
    """Run the baseline's process while the block lasts."""
    pipe = subprocess.PIPE
    with subprocess.Popen((sys.executable, "-c", _BASELINE), stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield Process(process.pid)
        finally:
            process.terminate()


@dataclass
class ProcessUsage:
    """The samples of a process."""

    process: Process
    memories: list[Memory] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    """Percent of one processor, each since the previous sample."""
    _used_s: tuple[float, float] | None = None

    def sample(self, *, share: bool) -> None:
        self.memories.append(self.process.memory)
        if share:
            now_s, cpu_s = time.monotonic(), self.process.cpu_s
            if self._used_s is not None:
                before_s, before_cpu_s = self._used_s
                self.shares.append((cpu_s - before_cpu_s) / (now_s - before_s) * 100)
            self._used_s = now_s, cpu_s

    def report(self, name: str, baseline: Memory) -> None:
        private = [each.private_mb for each in self.memories]
        print_amounts(f"{name}'s agent, private", private, "MB", below=AIM_MB, baseline=baseline.private_mb)
        for word in ("resident", "proportional", "mapped"):
            values = [getattr(each, f"{word}_mb") for each in self.memories]
            print_amounts(f"  {word}", values, "MB", baseline=getattr(baseline, f"{word}_mb"))
        if self.shares:
            print_amounts(f"{name}'s agent, of a processor", self.shares, "%")
            print_value("  mean", statistics.fmean(self.shares), "%", below=AIM_CPU)
