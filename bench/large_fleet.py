"""How long one change takes to reach a fleet that holds very many resources: a cluster and its endpoints for each pool.

It is measured as `fleet` is, and against the same baseline.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.fleet import changes, pushes, report
from bench.report import figure, heading
from bench.simulation import open_simulation, report_memory
from bench.testbed import open_bed, run

AIM_S = 1.0


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench large", description=__doc__)
    parser.add_argument("--proxies", type=int, default=1_000)
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--resources", type=int, default=10_000, help="half of them clusters, half their endpoints")
    parser.add_argument("--at-once", type=int, default=16, help="proxies that may be on their way to hold everything")
    return parser.parse_args(given)


async def measure(options: argparse.Namespace) -> None:
    async with open_bed() as bed:
        fleet = await bed.declare(pools=options.resources // 2, exits=1, gateways=options.proxies)
        async with open_simulation(bed.folder, bed.certify(fleet), bed.authority_file) as simulation:
            async with bed.serve() as replica:
                connected_s = await simulation.connect(
                    replica.xds_port, options.proxies, fleet.counts, at_once=options.at_once, timeout_s=900
                )
                totals, connecting_cpu_s = await simulation.totals(), replica.process.cpu_s
                figure("all connected and given everything", connected_s, "s")
                figure("sent until then", totals["response_bytes"] / 2**20, "MB")
                figure("control plane: CPU until then", connecting_cpu_s, "s")
                times, size, cpu_s = await changes(bed, fleet, replica, simulation, options.changes)
                report_memory(replica.process, simulation)
            baseline = await pushes(bed, simulation, options.proxies, options.changes, size)
    report(times, baseline, aim_s=AIM_S)
    figure("control plane: CPU of a change", cpu_s / options.changes * 1000, "ms")


def main(given: Sequence[str]) -> None:
    options = arguments(given)
    heading(f"large: {options.changes} changes, {options.resources} resources, {options.proxies} proxies, delta, mTLS")
    run(lambda: measure(options))
