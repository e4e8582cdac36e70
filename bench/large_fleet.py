"""Time of one change to reach a fleet with very many resources: a cluster and its endpoints for each pool.

It is measured as in `fleet`, against the same baseline.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.fleet import changes, pushes, report
from bench.report import print_heading, print_value
from bench.simulation import open_simulation, report_memory
from bench.testbed import open_testbed, run

AIM_S = 1.0


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench large_fleet", description=__doc__)
    parser.add_argument("--proxies", type=int, default=1_000)
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--resources", type=int, default=10_000, help="half of them clusters, half their endpoints")
    parser.add_argument("--at-once", type=int, default=16, help="proxies that may connect at once")
    return parser.parse_args(argv)


async def measure(options: argparse.Namespace) -> None:
    async with open_testbed() as testbed:
        fleet = await testbed.declare(pools=options.resources // 2, exits=1, gateways=options.proxies)
        async with open_simulation(testbed.folder, testbed.certify(fleet), testbed.authority_file) as simulation:
            async with testbed.serve() as replica:
                connected_s = await simulation.connect(
                    replica.xds_port, options.proxies, fleet.counts, at_once=options.at_once, timeout_s=900
                )
                totals, connecting_cpu_s = await simulation.totals(), replica.process.cpu_s
                print_value("all connected and complete", connected_s, "s")
                print_value("sent until then", totals["response_bytes"] / 2**20, "MB")
                print_value("control plane: CPU until then", connecting_cpu_s, "s")
                times, size, cpu_s = await changes(testbed, fleet, replica, simulation, options.changes)
                report_memory(replica.process, simulation)
            baseline = await pushes(testbed, simulation, options.proxies, options.changes, size)
    report(times, baseline, aim_s=AIM_S)
    print_value("control plane: CPU of a change", cpu_s / options.changes * 1000, "ms")


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    print_heading(
        f"large_fleet: {options.changes} changes, {options.resources} resources, {options.proxies} proxies, delta, mTLS"
    )
    run(lambda: measure(options))
