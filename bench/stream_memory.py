"""Memory and processor time of a control plane that holds many streams.

Every proxy connects, receives everything, and stays connected; at the end one endpoint changes, which all must acknowledge.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from bench.report import print_heading, print_times, print_value
from bench.simulation import open_simulation, report_memory
from bench.testbed import open_testbed, run

AIM_MB = 1_000


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench stream_memory", description=__doc__)
    parser.add_argument("--proxies", type=int, default=5_000)
    parser.add_argument("--pools", type=int, default=10)
    parser.add_argument("--exits", type=int, default=10, help="in each pool")
    parser.add_argument("--seconds", type=float, default=30, help="duration of the hold")
    return parser.parse_args(argv)


async def measure(options: argparse.Namespace) -> None:
    async with open_testbed() as testbed:
        fleet = await testbed.declare(pools=options.pools, exits=options.exits, gateways=options.proxies)
        async with (
            open_simulation(testbed.folder, testbed.certify(fleet), testbed.authority_file) as simulation,
            testbed.serve() as replica,
        ):
            empty_mb = replica.process.resident_mb
            connected_s = await simulation.connect(replica.xds_port, options.proxies, fleet.counts)
            connecting_cpu_s = replica.process.cpu_s
            await asyncio.sleep(5)  # until the control plane has recorded the connections
            cpu_s = replica.process.cpu_s
            await asyncio.sleep(options.seconds)
            cpu_s = replica.process.cpu_s - cpu_s
            await simulation.acknowledgements()
            commit = await testbed.move(fleet.exits[:1], 20_000)
            await simulation.acknowledged(commit.revision)
            delays_s = (await simulation.acknowledgements()).delays_s(commit.revision, commit.done_ns)
            totals = await simulation.totals()
            print_value("streams held to the end", totals["connected"] - totals["lost"])
            print_value("all connected and complete", connected_s, "s")
            print_value("control plane: CPU until then", connecting_cpu_s, "s")
            print_value("control plane: resident without streams", empty_mb, "MB")
            print_value("control plane: resident at most", replica.process.peak_mb, "MB", below=AIM_MB)
            per_stream = (replica.process.resident_mb - empty_mb) / options.proxies * 1024
            print_value("control plane: resident for each stream", per_stream, "KB")
            print_value("control plane: CPU when idle", cpu_s / options.seconds * 100, "% of a processor")
            print_times("then commit -> ACK, each proxy", delays_s)
            report_memory(replica.process, simulation)


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    print_heading(f"stream_memory: {options.proxies} streams for {options.seconds:g} s, delta, mTLS")
    run(lambda: measure(options))
