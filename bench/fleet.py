"""Time from the commit of one endpoint's change until a whole fleet has acknowledged it.

Each change moves one exit to another port. Measured are each proxy's ACK of the endpoints at that revision, and the slowest
proxy of each change. As a baseline of the same run, a minimal gRPC server (bench/grpc_baseline.py) pushes the same bytes to
the same proxies and reads their ACKs.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.grpc_baseline import open_baseline
from bench.report import print_heading, print_times, print_value
from bench.simulation import Simulation, open_simulation, report_memory
from bench.testbed import Commit, DeclaredFleet, Replica, Testbed, open_testbed, run

AIM_S = 0.2


@dataclass(slots=True)
class Times:
    """The delays of several pushes: of each proxy, and of the slowest proxy of each push."""

    each_s: list[float] = field(default_factory=list)
    slowest_s: list[float] = field(default_factory=list)

    def add(self, delays_s: Sequence[float]) -> None:
        self.each_s += delays_s
        self.slowest_s.append(max(delays_s))


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench fleet", description=__doc__)
    parser.add_argument("--proxies", type=int, default=1_000)
    parser.add_argument("--changes", type=int, default=30)
    parser.add_argument("--pools", type=int, default=10)
    parser.add_argument("--exits", type=int, default=10, help="in each pool")
    parser.add_argument("--profile", type=Path, help="a file for a profile of the control plane during the changes")
    return parser.parse_args(argv)


async def measure(options: argparse.Namespace) -> None:
    async with open_testbed() as testbed:
        fleet = await testbed.declare(pools=options.pools, exits=options.exits, gateways=options.proxies)
        certificates = testbed.certify(fleet)
        async with open_simulation(testbed.folder, certificates, testbed.authority_file) as simulation:
            async with testbed.serve(profile=options.profile) as replica:
                connected_s = await simulation.connect(replica.xds_port, options.proxies, fleet.counts)
                times, size, cpu_s = await changes(testbed, fleet, replica, simulation, options.changes)
                print_value("all connected and complete", connected_s, "s")
                report_memory(replica.process, simulation)
            baseline = await pushes(testbed, simulation, options.proxies, options.changes, size)
    report(times, baseline, aim_s=AIM_S)
    print_value("control plane: CPU of a change", cpu_s / options.changes * 1000, "ms")
    print_value("control plane: CPU of a response and its ACK", cpu_s / len(times.each_s) * 1e6, "us")


async def changes(
    testbed: Testbed,
    fleet: DeclaredFleet,
    replica: Replica,
    simulation: Simulation,
    count: int,
    *,
    first_port: int = 20_000,
) -> tuple[Times, int, float]:
    """Change endpoints one after another, and return the times, the size of a response, and the control plane's CPU seconds.

    The exits move to `first_port` and the following ports, which must differ from their current ones.
    """
    await asyncio.sleep(2)  # until the control plane has recorded the connections
    await simulation.acknowledgements()
    before, cpu_s = await simulation.totals(), replica.process.cpu_s
    replica.toggle_profile()
    times, commits, pauses = Times(), list[Commit](), random.Random(1)
    for number in range(count):
        commits.append(await testbed.move([fleet.exits[number % len(fleet.exits)]], first_port + number))
        await simulation.acknowledged(commits[-1].revision)
        await asyncio.sleep(pauses.uniform(0.1, 0.6))  # random, so that changes coincide with periodic work
    replica.toggle_profile()
    cpu_s = replica.process.cpu_s - cpu_s
    after, acknowledgements = await simulation.totals(), await simulation.acknowledgements()
    for commit in commits:
        times.add(acknowledgements.delays_s(commit.revision, commit.done_ns))
    size = (after["response_bytes"] - before["response_bytes"]) // (after["responses"] - before["responses"])
    return times, size, cpu_s


async def pushes(testbed: Testbed, simulation: Simulation, proxies: int, count: int, size: int) -> Times:
    """Push responses of this size from the baseline server, and return the times."""
    await simulation.command("forget")
    times = Times()
    async with open_baseline(testbed) as baseline_server:
        await simulation.connect(baseline_server.port, proxies, {})
        await baseline_server.until_streams(proxies)
        await simulation.acknowledgements()
        pushed = []
        for revision in range(1, count + 1):
            pushed.append(await baseline_server.push(revision, size))
            await simulation.acknowledged(revision)
            await asyncio.sleep(0.1)
        acknowledgements = await simulation.acknowledgements()
        for revision, at_ns in enumerate(pushed, 1):
            times.add(acknowledgements.delays_s(revision, at_ns))
    return times


def report(times: Times, baseline: Times, *, aim_s: float) -> None:
    """Print the times and the baseline."""
    print_times("commit -> ACK, each proxy", times.each_s, aim_s=aim_s, baseline_s=baseline.each_s)
    print_times("commit -> ACK, slowest proxy of a change", times.slowest_s, baseline_s=baseline.slowest_s)
    print_times("baseline: push -> ACK, each proxy", baseline.each_s)
    print_times("baseline: push -> ACK, slowest proxy", baseline.slowest_s)


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    print_heading(f"fleet: {options.changes} changes of one endpoint, {options.proxies} proxies, delta, mTLS")
    run(lambda: measure(options))
