"""Whether one control plane connects many streams and holds them, and what it needs for that.

Every proxy connects, is given everything, and stays; at the end one endpoint changes, which all of them must acknowledge.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from bench.report import figure, heading, spread
from bench.simulation import open_simulation, report_memory
from bench.testbed import open_bed, run

AIM_MB = 1_000


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench hold", description=__doc__)
    parser.add_argument("--proxies", type=int, default=5_000)
    parser.add_argument("--pools", type=int, default=10)
    parser.add_argument("--exits", type=int, default=10, help="in each pool")
    parser.add_argument("--seconds", type=float, default=30, help="how long to hold")
    return parser.parse_args(given)


async def measure(options: argparse.Namespace) -> None:
    async with open_bed() as bed:
        fleet = await bed.declare(pools=options.pools, exits=options.exits, gateways=options.proxies)
        async with (
            open_simulation(bed.folder, bed.certify(fleet), bed.authority_file) as simulation,
            bed.serve() as replica,
        ):
            empty_mb = replica.process.resident_mb
            connected_s = await simulation.connect(replica.xds_port, options.proxies, fleet.counts)
            connecting_cpu_s = replica.process.cpu_s
            await asyncio.sleep(5)  # what the connecting left to write down
            cpu_s = replica.process.cpu_s
            await asyncio.sleep(options.seconds)
            cpu_s = replica.process.cpu_s - cpu_s
            await simulation.acknowledgements()
            commit = await bed.move(fleet.exits[:1], 20_000)
            await simulation.acknowledged(commit.revision)
            delays_s = (await simulation.acknowledgements()).delays_s(commit.revision, commit.done_ns)
            totals = await simulation.totals()
            figure("streams held to the end", totals["connected"] - totals["lost"])
            figure("all connected and given everything", connected_s, "s")
            figure("control plane: CPU until then", connecting_cpu_s, "s")
            figure("control plane: resident without streams", empty_mb, "MB")
            figure("control plane: resident at most", replica.process.peak_mb, "MB", below=AIM_MB)
            per_stream = (replica.process.resident_mb - empty_mb) / options.proxies * 1024
            figure("control plane: resident for each stream", per_stream, "KB")
            figure("control plane: CPU while nothing changes", cpu_s / options.seconds * 100, "% of a processor")
            spread("then commit -> ACK, each proxy", delays_s)
            report_memory(replica.process, simulation)


def main(given: Sequence[str]) -> None:
    options = arguments(given)
    heading(f"hold: {options.proxies} streams for {options.seconds:g} s, delta, mTLS")
    run(lambda: measure(options))
