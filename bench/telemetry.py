"""Cost of telemetry to a push: the throughput of a replica with metrics scraped and every change traced, and without.

Both alternate in one run, each with a control plane of its own and all proxies connected. Each change is pushed to every
proxy, and the next one is committed when all have acknowledged it. Processor time is that of the control plane alone, so
it is the figure to trust on a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import grpc

from bench.process import free_port
from bench.report import print_heading, print_value
from bench.simulation import open_simulation
from bench.testbed import DeclaredFleet, Testbed, open_testbed, run

AIM: Final = 0.9
SCRAPE_EVERY_S: Final = 1.0
"""Prometheus scrapes every 15 s or so."""
_EXPORT: Final = ("opentelemetry.proto.collector.trace.v1.TraceService", "Export")


@dataclass(slots=True)
class Side:
    """The rounds with telemetry, or those without."""

    pushes_per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """Processor time of the control plane for each push."""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench telemetry", description=__doc__)
    parser.add_argument("--proxies", type=int, default=1_000)
    parser.add_argument("--pools", type=int, default=10)
    parser.add_argument("--changes", type=int, default=40, help="in each round")
    parser.add_argument("--rounds", type=int, default=3, help="of each side")
    return parser.parse_args(argv)


async def measure(options: argparse.Namespace) -> None:
    sides = {False: Side(), True: Side()}
    async with open_testbed() as testbed, _open_collector() as collector:
        fleet = await testbed.declare(pools=options.pools, exits=2, gateways=options.proxies)
        certificates = testbed.certify(fleet)
        for number in range(options.rounds):
            for traced in (number % 2 == 0, number % 2 == 1):
                port = free_port()
                settings = {
                    "EXITPLANE_METRICS_LISTEN": f"127.0.0.1:{port}",
                    "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
                }
                async with (
                    open_simulation(testbed.folder, certificates, testbed.authority_file) as simulation,
                    testbed.serve(more=settings if traced else {}) as replica,
                ):
                    await simulation.connect(replica.xds_port, options.proxies, fleet.counts)
                    await asyncio.sleep(1)
                    scraping = asyncio.create_task(_scrape(f"http://127.0.0.1:{port}/metrics")) if traced else None
                    cpu_s, began = replica.process.cpu_s, time.monotonic()
                    try:
                        await _push(testbed, fleet, simulation, options.changes, traced=traced)
                    finally:
                        if scraping is not None:
                            scraping.cancel()
                    pushes = options.changes * options.proxies
                    sides[traced].pushes_per_s.append(pushes / (time.monotonic() - began))
                    sides[traced].cpu_us.append((replica.process.cpu_s - cpu_s) / pushes * 1e6)
    _report(sides)


async def _push(testbed: Testbed, fleet: DeclaredFleet, simulation: Any, changes: int, *, traced: bool) -> None:
    for number in range(changes):
        context = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01" if traced else None
        exit_id = fleet.exits[number % len(fleet.exits)]
        commit = await testbed.move([exit_id], 20_000 + secrets.randbelow(40_000), traceparent=context)
        await simulation.acknowledged(commit.revision)


async def _scrape(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(url) as response:
                await response.read()
            await asyncio.sleep(SCRAPE_EVERY_S)


@asynccontextmanager
async def _open_collector() -> AsyncIterator[str]:
    """Run a collector that drops all spans, and yield its URL."""

    async def export(_: bytes, __: object) -> bytes:
        return b""

    server = grpc.aio.server()
    service, method = _EXPORT
    handlers = {method: grpc.unary_unary_rpc_method_handler(export)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop(0)


def _report(sides: Mapping[bool, Side]) -> None:
    for traced, name in ((False, "without telemetry"), (True, "with telemetry")):
        print_value(f"pushes {name}", statistics.median(sides[traced].pushes_per_s), "/s")
        print_value(f"processor time for a push {name}", statistics.median(sides[traced].cpu_us), "us")
    with_, without = sides[True], sides[False]
    throughput = statistics.median(with_.pushes_per_s) / statistics.median(without.pushes_per_s)
    cpu = statistics.median(with_.cpu_us) / statistics.median(without.cpu_us)
    print_value("throughput, ratio", throughput)
    print_value("processor time, ratio", cpu, at_most=1 / AIM)


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    print_heading(
        f"telemetry: {options.changes} changes to {options.proxies} proxies, on and off {options.rounds} times"
    )
    run(lambda: measure(options))
