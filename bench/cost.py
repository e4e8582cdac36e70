"""Cost of a change of one endpoint with few pools and with many.

In both cases the changes come one after another, each after the ACKs of the previous one. The control plane's processor time
is measured over all of them; its idle use in the same time is printed and subtracted.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.report import print_heading, print_times, print_value
from bench.simulation import open_simulation
from bench.testbed import open_testbed, run

AIM_CPU = 1.5
AIM_BYTES = 1.1
IDLE_S = 10.0


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a change."""

    cpu_ms: float
    """Without the idle use of the control plane."""
    whole_cpu_ms: float
    sent: float
    """Bytes of responses to one proxy."""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench cost", description=__doc__)
    parser.add_argument("--proxies", type=int, default=10)
    parser.add_argument("--changes", type=int, default=300)
    parser.add_argument("--few", type=int, default=10, help="pools")
    parser.add_argument("--many", type=int, default=1_000, help="pools")
    parser.add_argument("--exits", type=int, default=10, help="in each pool")
    return parser.parse_args(argv)


async def measure(options: argparse.Namespace) -> None:
    few = await cost(options, options.few)
    many = await cost(options, options.many)
    ratio = "many pools to few:"
    print_value(f"{ratio} CPU", many.cpu_ms / few.cpu_ms, "x", at_most=AIM_CPU)
    print_value(f"{ratio} CPU, all", many.whole_cpu_ms / few.whole_cpu_ms, "x")
    print_value(f"{ratio} bytes", many.sent / few.sent, "x", at_most=AIM_BYTES)


async def cost(options: argparse.Namespace, pools: int) -> Cost:
    async with open_testbed() as testbed:
        fleet = await testbed.declare(pools=pools, exits=options.exits, gateways=options.proxies)
        async with (
            open_simulation(testbed.folder, testbed.certify(fleet), testbed.authority_file) as simulation,
            testbed.serve() as replica,
        ):
            await simulation.connect(replica.xds_port, options.proxies, fleet.counts)
            await asyncio.sleep(2)
            cpu_s = replica.process.cpu_s
            await asyncio.sleep(IDLE_S)
            idle = (replica.process.cpu_s - cpu_s) / IDLE_S
            await simulation.acknowledgements()
            before, cpu_s, began = await simulation.totals(), replica.process.cpu_s, time.monotonic()
            commits = []
            for number in range(options.changes):
                commits.append(await testbed.move([fleet.exits[number * 7 % len(fleet.exits)]], 20_000 + number))
                await simulation.acknowledged(commits[-1].revision)
            await asyncio.sleep(1)  # until the last ACKs are recorded
            took_s, cpu_s = time.monotonic() - began, replica.process.cpu_s - cpu_s
            after, acknowledgements = await simulation.totals(), await simulation.acknowledgements()
    sent = (after["response_bytes"] - before["response_bytes"]) / options.proxies / options.changes
    measured = Cost((cpu_s - idle * took_s) / options.changes * 1000, cpu_s / options.changes * 1000, sent)
    delays_s = [delay for each in commits for delay in acknowledgements.delays_s(each.revision, each.done_ns)]
    print_times(f"{pools} pools: commit -> ACK, each proxy", delays_s)
    print_value(f"{pools} pools: CPU when idle", idle * 100, "% of a processor")
    print_value(f"{pools} pools: CPU of a change", measured.cpu_ms, "ms")
    print_value(f"{pools} pools: CPU of a change, all", measured.whole_cpu_ms, "ms")
    print_value(f"{pools} pools: bytes to a proxy", sent)
    return measured


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    print_heading(
        f"cost: {options.changes} changes of one endpoint in {options.few} and in {options.many} pools, "
        f"{options.proxies} proxies, delta, mTLS"
    )
    run(lambda: measure(options))
