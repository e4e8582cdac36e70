"""Time from the start of a control plane until it is ready, and until a first gateway has all resources.

PostgreSQL is already running, as at the restart of a replica; the gateway connects as soon as the control plane is ready.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence

from bench.report import print_heading, print_times, print_value
from bench.simulation import open_simulation
from bench.testbed import open_testbed, run

AIM_S = 10.0


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench cold_start", description=__doc__)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--pools", type=int, default=1_000)
    parser.add_argument("--exits", type=int, default=10, help="in each pool")
    return parser.parse_args(argv)


async def measure(options: argparse.Namespace) -> None:
    small, _, _ = await starts(options, pools=1)
    ready_s, complete_s, peak_mb = await starts(options, pools=options.pools)
    print_times("start -> ready", ready_s, unit="s", aim_s=AIM_S, baseline_s=small)
    print_times("start -> a gateway has everything", complete_s, unit="s", aim_s=AIM_S)
    print_times("baseline: start -> ready, one pool", small, unit="s")
    print_value("control plane: resident at most", peak_mb, "MB")


async def starts(options: argparse.Namespace, *, pools: int) -> tuple[list[float], list[float], float]:
    """Start several times, and return the times until ready, the times until a gateway had everything, and the peak memory."""
    ready_s, complete_s, peak_mb = [], [], 0.0
    async with open_testbed() as testbed:
        fleet = await testbed.declare(pools=pools, exits=options.exits, gateways=1)
        async with open_simulation(testbed.folder, testbed.certify(fleet), testbed.authority_file) as simulation:
            for _ in range(options.starts):
                began = time.monotonic()
                async with testbed.serve() as replica:
                    await simulation.connect(replica.xds_port, 1, fleet.counts)
                    complete_s.append(time.monotonic() - began)
                    ready_s.append(replica.ready_s)
                    peak_mb = max(peak_mb, replica.process.peak_mb)
                await simulation.command("forget")
                await asyncio.sleep(0.5)
    return ready_s, complete_s, peak_mb


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    print_heading(
        f"cold_start: {options.starts} starts with {options.pools * options.exits} exits in {options.pools} pools"
    )
    run(lambda: measure(options))
