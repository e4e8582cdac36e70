"""Changes under load while a man in the middle cuts the streams of real Envoys: nothing fails, stalls or gets lost.

Each change is published once. Every gateway's stream is cut after another number of its messages, and reconnects to the other
replica. A pass is a run of the same changes with other cut points; all passes together cut each gateway's stream at each point
of each change. The gateways use delta, state of the world, and delta through an agent's relay.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from model.database import Database
from tests.e2e.config_checks import WarmingWatch
from tests.e2e.cut_fleet import CutFleet, CutGateway, open_cut_fleet
from tests.e2e.fleet_changer import STABLE
from tests.e2e.gateway_load import GatewayLoad, running, serve_page

SEED = 14
SAMPLE_CHANGES, CHANGES = 16, 300
POINTS = 12
"""The most messages of a change that a stream is cut after; few changes have more."""
COPIES = 2
"""Gateways of each kind in a whole run, which are cut at different points of the same change."""


@dataclass
class CutReport:
    """The outcome of a pass."""

    problems: list[str] = field(default_factory=list)
    cuts: Counter[str] = field(default_factory=Counter)
    """Streams cut by kind of gateway and number of messages before."""
    answers: Counter[str] = field(default_factory=Counter)
    longest_warming_s: float = 0.0
    most_messages: int = 0
    """The most messages of a change on one stream and its successors."""


@dataclass
class CutPass:
    """A run of changes with one cut point for each gateway and change."""

    fleet: CutFleet
    loads: Sequence[GatewayLoad]
    offset: int
    """The number of this pass."""
    report: CutReport = field(default_factory=CutReport)

    async def change(self, number: int) -> None:
        """Make one change, cut the streams, and wait until all gateways use what the API says."""
        gateways = self.fleet.gateways
        points = [cut_point(position, number, self.offset) for position in range(len(gateways))]
        for gateway, point in zip(gateways, points, strict=True):
            gateway.cutter.cut_after(point)
        watch = WarmingWatch({each.name: each.envoy.admin_port for each in gateways})
        watching = asyncio.ensure_future(watch.run())
        try:
            acts = await self.fleet.changer.change()
            found = await self.fleet.settle()
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        for gateway, load in zip(gateways, self.loads, strict=True):
            found += [f"{gateway.name}: {name} {value}" for name, value in (await gateway.errors()).items()]
            found += load.take_failures()
        ways = ", ".join(map(describe, gateways, points))
        self.report.problems += [f"change {number} ({acts}; {ways}): {text}" for text in found]
        self.report.longest_warming_s = max(self.report.longest_warming_s, *watch.longest_s.values())
        self.report.most_messages = max(self.report.most_messages, *(each.cutter.messages for each in gateways))
        for gateway, point in zip(gateways, points, strict=True):
            if gateway.cutter.was_cut:
                self.report.cuts[f"{gateway.way.name} {point}"] += 1
            gateway.cutter.cut_after(None)


async def play(
    folder: Path, database: Database, changes: int, *, copies: int, offset: int, stop: bool = False
) -> CutReport:
    """Play a pass, and report what went wrong in it; `stop` ends it at the first problem."""
    async with serve_page() as page_port, open_cut_fleet(folder, database, SEED, page_port, copies) as fleet:
        loads = [
            GatewayLoad(each.name, each.port, page_port, STABLE, lambda: fleet.changer.changing)
            for each in fleet.gateways
        ]
        played = CutPass(fleet, loads, offset)
        for gateway in fleet.gateways:
            await gateway.errors()
        async with running(loads, clients=2, every_s=0.05 * copies):
            for number in range(changes):
                await played.change(number)
                if played.report.problems and stop:
                    break
    for load in loads:
        played.report.answers.update(load.counts)
    return played.report


def cut_point(position: int, number: int, offset: int) -> int:
    """Return the message after which a gateway's stream is cut at a change, from 1 to POINTS.

    Gateways of one kind, and the passes of a change, differ; the kinds differ from each other, too.
    """
    copy, kind = divmod(position, 3)
    return (number + copy + COPIES * offset + 5 * kind) % POINTS + 1


def describe(gateway: CutGateway, point: int) -> str:
    return f"{gateway.name} " + (
        f"cut after {point}" if gateway.cutter.was_cut else f"uncut in {gateway.cutter.messages}"
    )


@pytest.mark.timeout(600)
async def test_cut_streams_fail_nothing_and_converge(tmp_path, database, record_property):
    report = await play(tmp_path, database, SAMPLE_CHANGES, copies=1, offset=0, stop=True)
    record_property("figures", str(report))
    assert report.problems == []
    assert sum(report.cuts.values()) > SAMPLE_CHANGES


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("offset", range(POINTS // COPIES))
async def test_streams_cut_at_every_message_fail_nothing(tmp_path, database, record_property, offset):
    report = await play(tmp_path, database, CHANGES, copies=COPIES, offset=offset)
    record_property("figures", str(report))
    assert report.problems == []
