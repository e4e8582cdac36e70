"""How long a control plane needs from its start until it is ready, and until a first gateway holds everything.

PostgreSQL runs already, as it would beside a replica that is restarted; the gateway connects as soon as it is ready.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence

from bench.report import figure, heading, spread
from bench.simulation import open_simulation
from bench.testbed import open_bed, run

AIM_S = 10.0


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench cold", description=__doc__)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--pools", type=int, default=1_000)
    parser.add_argument("--exits", type=int, default=10, help="in each pool")
    return parser.parse_args(given)


async def measure(options: argparse.Namespace) -> None:
    small, _, _ = await starts(options, pools=1)
    ready_s, complete_s, peak_mb = await starts(options, pools=options.pools)
    spread("start -> ready", ready_s, unit="s", aim_s=AIM_S, baseline_s=small)
    spread("start -> a gateway holds everything", complete_s, unit="s", aim_s=AIM_S)
    spread("baseline: start -> ready, one pool", small, unit="s")
    figure("control plane: resident at most", peak_mb, "MB")


async def starts(options: argparse.Namespace, *, pools: int) -> tuple[list[float], list[float], float]:
    """Start several times: how long until ready, until a gateway held everything, and the most memory."""
    ready_s, complete_s, peak_mb = [], [], 0.0
    async with open_bed() as bed:
        fleet = await bed.declare(pools=pools, exits=options.exits, gateways=1)
        async with open_simulation(bed.folder, bed.certify(fleet), bed.authority_file) as simulation:
            for _ in range(options.starts):
                began = time.monotonic()
                async with bed.serve() as replica:
                    await simulation.connect(replica.xds_port, 1, fleet.counts)
                    complete_s.append(time.monotonic() - began)
                    ready_s.append(replica.ready_s)
                    peak_mb = max(peak_mb, replica.process.peak_mb)
                await simulation.ask("forget")
                await asyncio.sleep(0.5)
    return ready_s, complete_s, peak_mb


def main(given: Sequence[str]) -> None:
    options = arguments(given)
    heading(f"cold: {options.starts} starts with {options.pools * options.exits} exits in {options.pools} pools")
    run(lambda: measure(options))
