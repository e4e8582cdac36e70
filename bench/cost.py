"""Whether the cost of a change depends on how much else there is: one endpoint of few pools, and one of many.

For both the changes come one after the other, each when all proxies have acknowledged the one before, and the control plane's
processor time is taken over all of them; what it uses in the same time when nothing changes is printed, and taken off.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.report import figure, heading, spread
from bench.simulation import open_simulation
from bench.testbed import open_bed, run

AIM_CPU = 1.5
AIM_BYTES = 1.1
IDLE_S = 10.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a change costs."""

    cpu_ms: float
    """Without what the control plane uses anyhow."""
    whole_cpu_ms: float
    sent: float
    """Bytes of responses to one proxy."""


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench cost", description=__doc__)
    parser.add_argument("--proxies", type=int, default=10)
    parser.add_argument("--changes", type=int, default=300)
    parser.add_argument("--few", type=int, default=10, help="pools")
    parser.add_argument("--many", type=int, default=1_000, help="pools")
    parser.add_argument("--exits", type=int, default=10, help="in each pool")
    return parser.parse_args(given)


async def measure(options: argparse.Namespace) -> None:
    few = await cost(options, options.few)
    many = await cost(options, options.many)
    ratio = "the same of many pools, to few:"
    figure(f"{ratio} CPU", many.cpu_ms / few.cpu_ms, "x", at_most=AIM_CPU)
    figure(f"{ratio} CPU, all", many.whole_cpu_ms / few.whole_cpu_ms, "x")
    figure(f"{ratio} bytes", many.sent / few.sent, "x", at_most=AIM_BYTES)


async def cost(options: argparse.Namespace, pools: int) -> Cost:
    async with open_bed() as bed:
        fleet = await bed.declare(pools=pools, exits=options.exits, gateways=options.proxies)
        async with (
            open_simulation(bed.folder, bed.certify(fleet), bed.authority_file) as simulation,
            bed.serve() as replica,
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
                commits.append(await bed.move([fleet.exits[number * 7 % len(fleet.exits)]], 20_000 + number))
                await simulation.acknowledged(commits[-1].revision)
            await asyncio.sleep(1)  # what the last ones left to write down
            took_s, cpu_s = time.monotonic() - began, replica.process.cpu_s - cpu_s
            after, acknowledgements = await simulation.totals(), await simulation.acknowledgements()
    sent = (after["response_bytes"] - before["response_bytes"]) / options.proxies / options.changes
    measured = Cost((cpu_s - idle * took_s) / options.changes * 1000, cpu_s / options.changes * 1000, sent)
    delays_s = [delay for each in commits for delay in acknowledgements.delays_s(each.revision, each.done_ns)]
    spread(f"{pools} pools: commit -> ACK, each proxy", delays_s)
    figure(f"{pools} pools: CPU while nothing changes", idle * 100, "% of a processor")
    figure(f"{pools} pools: CPU of a change", measured.cpu_ms, "ms")
    figure(f"{pools} pools: CPU of a change, all", measured.whole_cpu_ms, "ms")
    figure(f"{pools} pools: bytes to a proxy", sent)
    return measured


def main(given: Sequence[str]) -> None:
    options = arguments(given)
    heading(
        f"cost: {options.changes} changes of one endpoint in {options.few} and in {options.many} pools, "
        f"{options.proxies} proxies, delta, mTLS"
    )
    run(lambda: measure(options))
