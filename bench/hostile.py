"""What clients that misbehave cost those that do not: commit to ACK of a fleet, without them and with them.

The same proxies, changes and control plane, first alone, then beside rogues (bench/bad_clients.py): clients that never read, never
answer, reject for ever, acknowledge what they were not sent, ask for unknown types or for a million names, or send garbage.
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
from bench.process import ended
from bench.report import figure, heading, spread
from bench.simulation import open_simulation, report_memory
from bench.testbed import Replica, Testbed, open_bed, run


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench hostile", description=__doc__)
    parser.add_argument("--proxies", type=int, default=200)
    parser.add_argument("--rogues", type=int, default=16, help="two of each kind")
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--pools", type=int, default=10)
    parser.add_argument("--exits", type=int, default=10, help="in each pool")
    return parser.parse_args(given)


async def measure(options: argparse.Namespace) -> None:
    async with open_bed() as bed:
        fleet = await bed.declare(pools=options.pools, exits=options.exits, gateways=options.proxies + options.rogues)
        certificates = bed.certify(fleet)
        good, bad = certificates[: options.proxies], certificates[options.proxies :]
        async with open_simulation(bed.folder, good, bed.authority_file) as simulation, bed.serve() as replica:
            await simulation.connect(replica.xds_port, options.proxies, fleet.counts)
            alone, _, _ = await changes(bed, fleet, replica, simulation, options.changes)
            before_mb = replica.process.resident_mb
            async with rogues(bed, replica, bad) as what_they_did:
                beside, _, _ = await changes(bed, fleet, replica, simulation, options.changes, first_port=30_000)
            for kind, count in sorted(what_they_did.items()):
                figure(f"rogues: {kind}", count, "times")
            figure("control plane: resident before them", before_mb, "MB")
            report_memory(replica.process, simulation)
    spread("commit -> ACK, each proxy, beside rogues", beside.each_s, baseline_s=alone.each_s)
    spread("baseline: without them", alone.each_s)


@asynccontextmanager
async def rogues(bed: Testbed, replica: Replica, certificates: Sequence[Path]) -> AsyncIterator[dict[str, int]]:
    """Rogues with these certificates, while the block lasts; what they did is there after it."""
    command = (
        sys.executable,
        "-m",
        "bench.bad_clients",
        str(replica.xds_port),
        str(bed.authority_file),
        *map(str, certificates),
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, start_new_session=True)
    done: dict[str, int] = {}
    async with ended(process):
        await asyncio.sleep(2)  # until they are at it
        yield done
        output, _ = await process.communicate(b"")  # and with that stdin ends
        done.update(json.loads(output))


def main(given: Sequence[str]) -> None:
    options = arguments(given)
    heading(
        f"hostile: {options.changes} changes, {options.proxies} proxies beside {options.rogues} rogues, delta, mTLS"
    )
    run(lambda: measure(options))
