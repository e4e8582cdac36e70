"""Effect of clients that misbehave on others: time from commit to ACK of a fleet, without them and with them.

The same proxies, changes and control plane are measured first alone, then with bad clients (bench/bad_clients.py), which never
read, never answer, reject everything, acknowledge unknown nonces, request unknown types or a million names, or send garbage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.fleet import changes
from bench.process import terminating
from bench.report import print_heading, print_times, print_value
from bench.simulation import open_simulation, report_memory
from bench.testbed import Replica, Testbed, open_testbed, run


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench hostile", description=__doc__)
    parser.add_argument("--proxies", type=int, default=200)
    parser.add_argument("--bad-clients", type=int, default=16, help="two of each kind")
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--pools", type=int, default=10)
    parser.add_argument("--exits", type=int, default=10, help="in each pool")
    return parser.parse_args(argv)


async def measure(options: argparse.Namespace) -> None:
    async with open_testbed() as testbed:
        fleet = await testbed.declare(
            pools=options.pools, exits=options.exits, gateways=options.proxies + options.bad_clients
        )
        certificates = testbed.certify(fleet)
        good, bad = certificates[: options.proxies], certificates[options.proxies :]
        async with (
            open_simulation(testbed.folder, good, testbed.authority_file) as simulation,
            testbed.serve() as replica,
        ):
            await simulation.connect(replica.xds_port, options.proxies, fleet.counts)
            alone, _, _ = await changes(testbed, fleet, replica, simulation, options.changes)
            before_mb = replica.process.resident_mb
            async with bad_clients(testbed, replica, bad) as misbehaviour:
                loaded, _, _ = await changes(testbed, fleet, replica, simulation, options.changes, first_port=30_000)
            for kind, count in sorted(misbehaviour.items()):
                print_value(f"bad clients: {kind}", count, "times")
            print_value("control plane: resident before them", before_mb, "MB")
            report_memory(replica.process, simulation)
    print_times("commit -> ACK, each proxy, with bad clients", loaded.each_s, baseline_s=alone.each_s)
    print_times("baseline: without them", alone.each_s)


@asynccontextmanager
async def bad_clients(
    testbed: Testbed, replica: Replica, certificates: Sequence[Path]
) -> AsyncIterator[dict[str, int]]:
    """Run bad clients with these certificates while the block lasts; the yielded counts are filled at its end."""
    command = (
        sys.executable,
        "-m",
        "bench.bad_clients",
        str(replica.xds_port),
        str(testbed.authority_file),
        *map(str, certificates),
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, start_new_session=True)
    done: dict[str, int] = {}
    async with terminating(process):
        await asyncio.sleep(2)  # until they are connected
        yield done
        output, _ = await process.communicate(b"")  # closes stdin, which ends them
        done.update(json.loads(output))


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    print_heading(
        f"hostile: {options.changes} changes, {options.proxies} proxies and {options.bad_clients} bad clients, delta, mTLS"
    )
    run(lambda: measure(options))
