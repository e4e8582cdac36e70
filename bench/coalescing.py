"""Delay of many changes: from each commit until each proxy has acknowledged a World that contains it.

Transactions come at a fixed rate, whether the fleet keeps up or not; each moves the same number of exits. A response may
cover many transactions: the fewer responses for a transaction, the more changes were coalesced.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from itertools import cycle, islice

from bench.report import print_heading, print_times, print_value
from bench.simulation import open_simulation, report_memory
from bench.testbed import Commit, DeclaredFleet, Testbed, open_testbed, run

AIM_S = 2.0
AT_ONCE = 8
"""Transactions that may wait for PostgreSQL at once."""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench coalescing", description=__doc__)
    parser.add_argument("--proxies", type=int, default=1_000)
    parser.add_argument("--pools", type=int, default=100)
    parser.add_argument("--exits", type=int, default=10, help="in each pool")
    parser.add_argument("--endpoints", type=int, default=1_000, help="changed per second")
    parser.add_argument("--transactions", type=int, default=50, help="per second")
    parser.add_argument("--seconds", type=float, default=20)
    return parser.parse_args(argv)


async def measure(options: argparse.Namespace) -> None:
    async with open_testbed() as testbed:
        fleet = await testbed.declare(pools=options.pools, exits=options.exits, gateways=options.proxies)
        async with (
            open_simulation(testbed.folder, testbed.certify(fleet), testbed.authority_file) as simulation,
            testbed.serve() as replica,
        ):
            await simulation.connect(replica.xds_port, options.proxies, fleet.counts)
            await asyncio.sleep(2)
            await simulation.acknowledgements()
            before, plane_s, simulator_s = await simulation.totals(), replica.process.cpu_s, simulation.process.cpu_s
            began = time.monotonic()
            commits = await commit_at_rate(testbed, fleet, options)
            took_s = time.monotonic() - began
            await simulation.acknowledged(commits[-1].revision)
            plane_s, simulator_s = replica.process.cpu_s - plane_s, simulation.process.cpu_s - simulator_s
            after, acknowledgements = await simulation.totals(), await simulation.acknowledgements()
            delays_s = [
                delay for commit in commits for delay in acknowledgements.delays_s(commit.revision, commit.done_ns)
            ]
            responses = (after["responses"] - before["responses"]) / options.proxies
            print_value("transactions", len(commits) / took_s, "/s")
            print_value("changed endpoints", len(commits) * per_transaction(options) / took_s, "/s")
            print_times("transaction", [(commit.done_ns - commit.began_ns) / 1e9 for commit in commits])
            print_times("commit -> ACK, each proxy and transaction", delays_s, aim_s=AIM_S)
            print_value("responses to a proxy, for each transaction", responses / len(commits))
            sent_mb = (after["response_bytes"] - before["response_bytes"]) / 2**20
            print_value("sent", sent_mb / took_s, "MB/s")
            print_value("control plane: CPU", plane_s / took_s * 100, "% of a processor")
            print_value("simulator: CPU", simulator_s / took_s * 100, "% of a processor")
            report_memory(replica.process, simulation)


def per_transaction(options: argparse.Namespace) -> int:
    return int(options.endpoints) // int(options.transactions)


async def commit_at_rate(testbed: Testbed, fleet: DeclaredFleet, options: argparse.Namespace) -> list[Commit]:
    """Commit transactions at a fixed rate, and return them by revision."""
    # every pool in turn, so that each transaction changes as many pools as possible
    exits = cycle(exit_id for place in range(options.exits) for exit_id in fleet.exits[place :: options.exits])
    turns = asyncio.Semaphore(AT_ONCE)
    began = time.monotonic()

    async def commit(number: int) -> Commit:
        chosen = [*islice(exits, per_transaction(options))]
        await asyncio.sleep(max(0.0, began + number / options.transactions - time.monotonic()))
        async with turns:
            return await testbed.move(sorted(chosen), 20_000 + number % 40_000)

    count = int(options.transactions * options.seconds)
    commits = await asyncio.gather(*(commit(number) for number in range(count)))
    return sorted(commits, key=lambda each: each.revision)


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    print_heading(
        f"coalescing: {options.endpoints} endpoints/s in {options.transactions} transactions/s, "
        f"{options.proxies} proxies, delta, mTLS"
    )
    run(lambda: measure(options))
