"""Messages with a database: rounds of evaluation, deliveries with retries, and the change of the lease."""

from __future__ import annotations

from itertools import pairwise

import pytest
from sqlalchemy import select

from keeper.messages.counters import MessageCounters
from keeper.messages.rounds import MessageRounds
from model.exit_states import ExitState
from model.message_events import COOLDOWN_MIN_S, MessageEvent
from model.repositories import exits, messages
from model.tables import (
    ChangeRow,
    ChannelRow,
    MessageRow,
    MessageRuleRow,
)
from model.unit_of_work import write
from model.world import Kind

pytestmark = pytest.mark.postgres
HEALTHY, LOST, UNREACHABLE = ExitState.HEALTHY, ExitState.LOST, ExitState.UNREACHABLE


class Scene:
    """A fleet with exits, a channel, and evaluations by the harness's clock."""

    def __init__(self, harness):
        self.harness, self.database, self.clock = harness, harness.database, harness.clock
        self.counters = MessageCounters()
        self.rounds = MessageRounds(self.database, self.clock, self.counters)

    async def add_channel(self, name="ops"):
        async with self.database.session() as session:
            row = ChannelRow(name=name, service="webhook", url="https://a.example/", created_at=self.clock())
            await messages.save(session, row)
        return row

    async def add_rule(self, channels, *events, **fields):
        given = {"threshold": 1, "within_s": 3_600, "for_s": 0, "cooldown_s": 300, "recovery": True} | fields
        async with self.database.session() as session:
            row = MessageRuleRow(name="r", events=[*events], created_at=self.clock(), **given)
            await messages.save(session, row)
            await messages.set_channels(session, row.id, [each.id for each in channels])
        return row

    async def move(self, exit_id, *states):
        for old, new in pairwise(states):
            async with write(self.database) as unit:
                assert await exits.change_state(unit, exit_id, old, new, f"it became {new}", self.clock())

    async def flap(self, exit_id, times):
        """Record in one revision that an exit stopped serving so many times, and serves."""
        pairs = [(HEALTHY, UNREACHABLE), (UNREACHABLE, HEALTHY), (HEALTHY, LOST), (LOST, HEALTHY)]
        async with write(self.database) as unit:
            unit.touch(Kind.EXIT, exit_id)  # takes the revision
            await unit.seal()
            unit.session.add_all(
                ChangeRow(
                    revision=unit.revision,
                    kind=Kind.EXIT,
                    key=str(exit_id),
                    at=self.clock(),
                    action="changed",
                    detail={"changes": {"state": [*pairs[number % 4]]}},
                )
                for number in range(2 * times)
            )

    async def evaluate(self, seconds=0):
        self.clock.advance(seconds=seconds)
        await self.rounds.run()

    async def rows(self, table=MessageRow):
        async with self.database.session() as session:
            return (await session.execute(select(table))).scalars().all()

    async def titles(self):
        return [row.content["title"] for row in sorted(await self.rows(), key=lambda row: row.id)]


@pytest.fixture
async def scene(harness):
    opened = Scene(harness)
    await opened.evaluate()  # from here on
    return opened


async def test_lost_exit_and_its_recovery_are_told(scene):
    channels = [await scene.add_channel(name) for name in ("ops", "chat")]
    await scene.add_rule(channels, MessageEvent.EXIT_LOST, fleet="demo", pool="u*")
    one = await scene.harness.declare("us-1", HEALTHY)
    await scene.evaluate()
    assert await scene.rows() == []
    await scene.move(one, HEALTHY, LOST)
    await scene.evaluate(1)
    await scene.evaluate(1)
    assert await scene.titles() == ["exit us-1 (demo/us) is lost"] * 2
    content = (await scene.rows())[0].content
    assert content["body"] == "exit us-1 (demo/us) is lost: it became lost"
    assert (content["kind"], content["items"][0]["event"], content["items"][0]["exit"]) == (
        "alert",
        "exit_lost",
        "us-1",
    )
    await scene.move(one, LOST, HEALTHY)
    await scene.evaluate(1)
    assert (await scene.titles())[2:] == ["exit us-1 (demo/us) is well again (it is lost)"] * 2


async def test_exit_flapping_in_the_database_sends_two_messages(scene):
    """The exit stops serving 100 times within a minute, most times between two evaluations."""
    await scene.add_rule([await scene.add_channel()], *MessageEvent, cooldown_s=COOLDOWN_MIN_S)
    one = await scene.harness.declare("us-1", HEALTHY)
    for _ in range(20):
        await scene.flap(one, 5)
        await scene.evaluate(2.9)
    told = [row for row in await scene.rows() if "us-1" in row.content["title"]]
    assert len(told) <= 2
    await scene.evaluate(120)
    (last,) = [row for row in await scene.rows() if "us-1" in row.content["title"]][2:]
    assert "times" in last.content["body"]
