"""Bytes that a restarted control plane sends to a fleet whose configuration did not change.

The proxies reconnect with the versions that they hold. A change afterwards, which all must acknowledge, shows that every
stream is served again; the responses are counted before it.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from bench.report import print_heading, print_times, print_value
from bench.simulation import open_simulation
from bench.testbed import open_testbed, run

QUIET_S = 3.0


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench restart", description=__doc__)
    parser.add_argument("--proxies", type=int, default=1_000)
    parser.add_argument("--pools", type=int, default=100)
    parser.add_argument("--exits", type=int, default=10, help="in each pool")
    return parser.parse_args(argv)


async def measure(options: argparse.Namespace) -> None:
    async with open_testbed() as testbed:
        fleet = await testbed.declare(pools=options.pools, exits=options.exits, gateways=options.proxies)
        async with open_simulation(testbed.folder, testbed.certify(fleet), testbed.authority_file) as simulation:
            async with testbed.serve() as replica:
                first_s = await simulation.connect(replica.xds_port, options.proxies, fleet.counts)
                await asyncio.sleep(QUIET_S)
                first = await simulation.totals()
            async with testbed.serve() as replica:
                again_s = await simulation.connect(replica.xds_port, options.proxies, fleet.counts)
                await asyncio.sleep(QUIET_S)
                again = await simulation.totals()
                await simulation.acknowledgements()
                commit = await testbed.move(fleet.exits[:1], 20_000)
                await simulation.acknowledged(commit.revision)
                delays_s = (await simulation.acknowledgements()).delays_s(commit.revision, commit.done_ns)
                last = await simulation.totals()
    sent = {name: again[name] - first[name] for name in ("responses", "response_bytes", "resource_bytes")}
    print_value("first: responses", first["responses"])
    print_value("first: bytes of resources", first["resource_bytes"])
    print_value("first: all complete", first_s, "s")
    print_value("after the restart: responses", sent["responses"])
    print_value("after the restart: bytes of responses", sent["response_bytes"])
    print_value("after the restart: bytes of resources", sent["resource_bytes"], at_most=0)
    print_value("after the restart: all connected", again_s, "s")
    print_value("after the restart: control plane ready", replica.ready_s, "s")
    print_times("then commit -> ACK, each proxy", delays_s)
    print_value("then responses", last["responses"] - again["responses"])


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    print_heading(f"restart: {options.proxies} unchanged proxies, {options.pools} pools, delta, mTLS")
    run(lambda: measure(options))
