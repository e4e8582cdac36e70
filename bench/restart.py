"""What a restart of the control plane sends to a fleet that nothing changed for.

The proxies come back with the versions that they hold. That every stream is served again is shown by a change afterwards,
which all of them must acknowledge; what they were sent is counted before it.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from bench.report import figure, heading, spread
from bench.simulation import open_simulation
from bench.testbed import open_bed, run

QUIET_S = 3.0


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench restart", description=__doc__)
    parser.add_argument("--proxies", type=int, default=1_000)
    parser.add_argument("--pools", type=int, default=100)
    parser.add_argument("--exits", type=int, default=10, help="in each pool")
    return parser.parse_args(given)


async def measure(options: argparse.Namespace) -> None:
    async with open_bed() as bed:
        fleet = await bed.declare(pools=options.pools, exits=options.exits, gateways=options.proxies)
        async with open_simulation(bed.folder, bed.certify(fleet), bed.authority_file) as simulation:
            async with bed.serve() as replica:
                first_s = await simulation.connect(replica.xds_port, options.proxies, fleet.counts)
                await asyncio.sleep(QUIET_S)
                first = await simulation.totals()
            async with bed.serve() as replica:
                again_s = await simulation.connect(replica.xds_port, options.proxies, fleet.counts)
                await asyncio.sleep(QUIET_S)
                again = await simulation.totals()
                await simulation.acknowledgements()
                commit = await bed.move(fleet.exits[:1], 20_000)
                await simulation.acknowledged(commit.revision)
                delays_s = (await simulation.acknowledgements()).delays_s(commit.revision, commit.done_ns)
                last = await simulation.totals()
    sent = {name: again[name] - first[name] for name in ("responses", "response_bytes", "resource_bytes")}
    figure("first: responses", first["responses"])
    figure("first: bytes of resources", first["resource_bytes"])
    figure("first: all given everything", first_s, "s")
    figure("after the restart: responses", sent["responses"])
    figure("after the restart: bytes of responses", sent["response_bytes"])
    figure("after the restart: bytes of resources", sent["resource_bytes"], at_most=0)
    figure("after the restart: all connected", again_s, "s")
    figure("after the restart: control plane ready", replica.ready_s, "s")
    spread("then commit -> ACK, each proxy", delays_s)
    figure("then responses", last["responses"] - again["responses"])


def main(given: Sequence[str]) -> None:
    options = arguments(given)
    heading(f"restart: {options.proxies} unchanged proxies, {options.pools} pools, delta, mTLS")
    run(lambda: measure(options))
