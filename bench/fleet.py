"""How long until a whole fleet acknowledged the change of one endpoint, from the commit on.

Each change moves one exit to another port. The times are those of each proxy's ACK of the endpoints at that revision, and, for
each change, of the slowest proxy. As a baseline of the same run the same proxies are pushed the same bytes by a bare gRPC
server (bench/grpc_baseline.py), which knows them all and reads their ACKs, and does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.grpc_baseline import open_bare
from bench.report import figure, heading, spread
from bench.simulation import Simulation, open_simulation, report_memory
from bench.testbed import Commit, DeclaredFleet, Replica, Testbed, open_bed, run

AIM_S = 0.2


@dataclass(slots=True)
class Times:
    """Of several pushes: how long each proxy took, and how long the slowest of each push."""

    each_s: list[float] = field(default_factory=list)
    slowest_s: list[float] = field(default_factory=list)

    def add(self, delays_s: Sequence[float]) -> None:
        self.each_s += delays_s
        self.slowest_s.append(max(delays_s))


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench fleet", description=__doc__)
    parser.add_argument("--proxies", type=int, default=1_000)
    parser.add_argument("--changes", type=int, default=30)
    parser.add_argument("--pools", type=int, default=10)
    parser.add_argument("--exits", type=int, default=10, help="in each pool")
    parser.add_argument("--profile", type=Path, help="write the control plane's profile of the changes there")
    return parser.parse_args(given)


async def measure(options: argparse.Namespace) -> None:
    async with open_bed() as bed:
        fleet = await bed.declare(pools=options.pools, exits=options.exits, gateways=options.proxies)
        certificates = bed.certify(fleet)
        async with open_simulation(bed.folder, certificates, bed.authority_file) as simulation:
            async with bed.serve(profile=options.profile) as replica:
                connected_s = await simulation.connect(replica.xds_port, options.proxies, fleet.counts)
                times, size, cpu_s = await changes(bed, fleet, replica, simulation, options.changes)
                figure("all connected and given everything", connected_s, "s")
                report_memory(replica.process, simulation)
            baseline = await pushes(bed, simulation, options.proxies, options.changes, size)
    report(times, baseline, aim_s=AIM_S)
    figure("control plane: CPU of a change", cpu_s / options.changes * 1000, "ms")
    figure("control plane: CPU of a response and its ACK", cpu_s / len(times.each_s) * 1e6, "us")


async def changes(
    bed: Testbed,
    fleet: DeclaredFleet,
    replica: Replica,
    simulation: Simulation,
    count: int,
    *,
    first_port: int = 20_000,
) -> tuple[Times, int, float]:
    """Change endpoints one after the other: the times, the size of a response, the control plane's CPU seconds.

    The exits move to `first_port` and those after it, which must not be where they are.
    """
    await asyncio.sleep(2)  # what the connecting left to write down
    await simulation.acknowledgements()
    before, cpu_s = await simulation.totals(), replica.process.cpu_s
    replica.toggle_profile()
    times, commits, pauses = Times(), list[Commit](), random.Random(1)
    for number in range(count):
        commits.append(await bed.move([fleet.exits[number % len(fleet.exits)]], first_port + number))
        await simulation.acknowledged(commits[-1].revision)
        await asyncio.sleep(pauses.uniform(0.1, 0.6))  # so that it meets what else is done at regular times
    replica.toggle_profile()
    cpu_s = replica.process.cpu_s - cpu_s
    after, acknowledgements = await simulation.totals(), await simulation.acknowledgements()
    for commit in commits:
        times.add(acknowledgements.delays_s(commit.revision, commit.done_ns))
    size = (after["response_bytes"] - before["response_bytes"]) // (after["responses"] - before["responses"])
    return times, size, cpu_s


async def pushes(bed: Testbed, simulation: Simulation, proxies: int, count: int, size: int) -> Times:
    """Push responses of this size from a bare server, as often."""
    await simulation.ask("forget")
    times = Times()
    async with open_bare(bed) as bare:
        await simulation.connect(bare.port, proxies, {})
        await bare.until_streams(proxies)
        await simulation.acknowledgements()
        pushed = []
        for revision in range(1, count + 1):
            pushed.append(await bare.push(revision, size))
            await simulation.acknowledged(revision)
            await asyncio.sleep(0.1)
        acknowledgements = await simulation.acknowledgements()
        for revision, at_ns in enumerate(pushed, 1):
            times.add(acknowledgements.delays_s(revision, at_ns))
    return times


def report(times: Times, baseline: Times, *, aim_s: float) -> None:
    """Print both, one beside the other."""
    spread("commit -> ACK, each proxy", times.each_s, aim_s=aim_s, baseline_s=baseline.each_s)
    spread("commit -> ACK, slowest proxy of a change", times.slowest_s, baseline_s=baseline.slowest_s)
    spread("baseline: push -> ACK, each proxy", baseline.each_s)
    spread("baseline: push -> ACK, slowest proxy", baseline.slowest_s)


def main(given: Sequence[str]) -> None:
    options = arguments(given)
    heading(f"fleet: {options.changes} changes of one endpoint, {options.proxies} proxies, delta, mTLS")
    run(lambda: measure(options))
