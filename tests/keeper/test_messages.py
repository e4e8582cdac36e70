"""Messages with a database: rounds of evaluation, deliveries with retries, and the change of the lease."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from itertools import pairwise
from uuid import UUID

import pytest
from sqlalchemy import select, update

from keeper.messages import worker
from keeper.messages.message_counters import MessageCounters
from keeper.messages.outbox import PAUSES_S, Outbox
from keeper.messages.rounds import MessageRounds
from model.apprise_client import NotSent
from model.exit_states import ExitState
from model.message_events import COOLDOWN_MIN_S, MessageEvent
from model.repositories import exits, messages, rollout, sync
from model.repositories.rollout import GroupRollout, TriedChangeSet
from model.repositories.sync import TypeSync
from model.tables import (
    ChangeRow,
    ChannelRow,
    ExitRow,
    KnownEgressRow,
    MessageMemoryRow,
    MessageRow,
    MessageRuleRow,
    ServerCertificateRow,
)
from model.unit_of_work import write
from model.world import Kind

pytestmark = pytest.mark.postgres
HEALTHY, LOST, UNREACHABLE = ExitState.HEALTHY, ExitState.LOST, ExitState.UNREACHABLE


class MessageScene:
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
    opened = MessageScene(harness)
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


# -- deliveries --------------------------------------------------------------------------------------------------------


class FakeSender:
    """Records what is sent. Channels in `failing` refuse, and those in `slow` wait for `release`."""

    def __init__(self):
        self.sent, self.failing, self.slow, self.release = [], set(), set(), asyncio.Event()

    async def send(self, channel, message):
        if channel.name in self.slow:
            await self.release.wait()
        if channel.name in self.failing:
            raise NotSent("it is away")
        self.sent.append((channel.name, message.id))


@pytest.fixture
def sender():
    return FakeSender()


@pytest.fixture
def outbox_of(scene, sender):
    """`outbox_of()`: the outbox of a replica."""
    return lambda: Outbox(scene.database, scene.clock, sender, scene.counters, lambda: None)


async def enqueue(scene, *channels):
    async with scene.database.session() as session:
        content = {"title": "t", "body": "b", "kind": "news", "items": []}
        await messages.enqueue(session, "r", [(each.id, each.name) for each in channels], content, scene.clock())


async def test_failing_channel_is_retried_and_given_up(scene, outbox_of, sender):
    channel, outbox = await scene.add_channel(), outbox_of()
    sender.failing.add("ops")
    await enqueue(scene, channel)
    states = []
    for pause_s in (*PAUSES_S, 3_600, 3_600):
        await outbox.start_due()
        await outbox.finish()
        await outbox.start_due()  # nothing is due
        (row,) = await scene.rows()
        states.append((row.state, row.attempts))
        scene.clock.advance(seconds=pause_s)
    pending = [("pending", number) for number in range(1, len(PAUSES_S) + 1)]
    assert states == [*pending, ("failed", 8), ("failed", 8)]
    assert (row.error, sender.sent) == ("it is away", [])
    assert scene.counters.attempts == {"retried": 7, "failed": 1}


async def test_slow_channel_holds_up_no_other(scene, outbox_of, sender):
    slow, ops = await scene.add_channel("slow"), await scene.add_channel()
    sender.slow.add("slow")
    outbox = outbox_of()
    for _ in range(3):
        await enqueue(scene, slow, ops)
    for _ in range(3):
        await outbox.start_due()
        await asyncio.gather(outbox._busy[ops.id])
    assert [name for name, _ in sender.sent] == ["ops"] * 3
    assert [row.state for row in await scene.rows() if row.channel == "slow"].count("sending") == 1
    sender.release.set()
    await outbox.finish()


async def test_nothing_is_sent_twice_by_two_replicas_or_after_a_restart(scene, outbox_of, sender):
    await enqueue(scene, await scene.add_channel())
    boxes = [outbox_of(), outbox_of()]
    await asyncio.gather(*(each.start_due() for each in boxes))
    await asyncio.gather(*(each.finish() for each in boxes))
    scene.clock.advance(seconds=3_600)
    restarted = outbox_of()
    await restarted.start_due()
    await restarted.finish()
    assert len(sender.sent) == 1
    assert [row.state for row in await scene.rows()] == ["sent"]


async def test_message_of_a_replica_that_ended_is_sent_by_another(scene, outbox_of, sender):
    await enqueue(scene, await scene.add_channel())
    sender.slow.add("ops")
    ended = outbox_of()
    await ended.start_due()
    await ended.finish(within_s=0)  # it ends before the receiver has answered
    sender.slow.clear()
    other = outbox_of()
    for seconds in (60, 90):
        scene.clock.advance(seconds=seconds)
        await other.start_due()
        await other.finish()
        assert len(sender.sent) == int(seconds == 90)


async def test_evaluation_at_two_replicas_stores_each_message_once(scene):
    await scene.add_rule([await scene.add_channel()], MessageEvent.EXIT_LOST)
    one = await scene.harness.declare("us-1", HEALTHY)
    await scene.move(one, HEALTHY, LOST)
    others = [MessageRounds(scene.database, scene.clock, MessageCounters()) for _ in range(3)]
    await asyncio.gather(*(each.run() for each in others))
    await asyncio.gather(*(each.run() for each in others))
    assert len(await scene.titles()) == 1


# -- what events are derived from --------------------------------------------------------------------------------------


async def test_changed_address_and_country_are_told_once(scene):
    await scene.add_rule([await scene.add_channel()], MessageEvent.ADDRESS_CHANGED, MessageEvent.COUNTRY_CHANGED)
    one = await scene.harness.declare("us-1", HEALTHY)
    for address, country in (("192.0.2.1", "us"), ("192.0.2.1", "us"), ("192.0.2.9", None), ("192.0.2.9", "de")):
        scene.clock.advance(seconds=301)
        await scene.harness.send_heartbeat(one, observation={"address": address, "country": country})
        await scene.rounds.run()
        await scene.rounds.run()
    bodies = [row.content["body"].partition(": ")[2] for row in await scene.rows()]
    assert bodies == ["192.0.2.1 before, 192.0.2.9 now", "us before, de now"]
    async with scene.database.session() as session:
        await session.execute(update(MessageRuleRow).values(enabled=False))
    await scene.evaluate()
    assert await scene.rows(KnownEgressRow) == []


async def test_idle_exit_is_told_until_it_carries_again(scene):
    await scene.add_rule([await scene.add_channel()], MessageEvent.EXIT_IDLE, for_s=60)
    idle, busy = await scene.harness.declare("idle", HEALTHY), await scene.harness.declare("busy", HEALTHY)
    for number in range(6):
        scene.clock.advance(seconds=31)
        await scene.harness.send_heartbeat(idle, carried_bytes=5 if number < 4 else number * 100)
        await scene.harness.send_heartbeat(busy, carried_bytes=number)
        await scene.rounds.run()
    await scene.evaluate(62)
    titles = await scene.titles()
    assert titles[0] == "exit idle (demo/us) carries no traffic"
    assert not any("busy" in title for title in titles)


async def test_rejections_rollbacks_certificates_and_degradation_are_found(scene):
    await scene.add_rule([await scene.add_channel()], *sorted(set(MessageEvent) - {MessageEvent.EXIT_IDLE}))
    one, fleet = await scene.harness.declare("us-1", HEALTHY), scene.harness.pool.fleet_id
    rejected = TriedChangeSet("c", "nobody", "gw-1 rejected it", (), (), rejected=True)
    async with scene.database.session() as session:
        nack = TypeSync(one, "type.x", rejected_revision=2, rejected_at=scene.clock(), detail="bad \x1b[31mcluster")
        await sync.record(session, UUID(int=1), [nack])
        await rollout.store_rollouts(session, [GroupRollout("gateways/x", fleet, (rejected,))], (), scene.clock())
        session.add(
            ServerCertificateRow(
                fleet_id=fleet,
                name="gw",
                chain="",
                key="k",
                server_names=[],
                expires_soon=True,
                expires_at=scene.clock(),
                created_at=scene.clock(),
            )
        )
    await scene.evaluate()
    (row,) = await scene.rows()
    found = {item["event"]: item["label"] for item in row.content["items"]}
    assert found == {
        "proxy_rejected": "exit us-1 (demo)",
        "canary_rolled_back": "fleet demo",
        "certificate_expiring": "certificate gw (demo)",
        "control_plane_degraded": "the control plane",
    }
    assert "no replica runs the keeper" in row.content["body"]
    assert "\x1b" not in row.content["body"]


async def test_removed_exit_is_forgotten_without_a_message(scene):
    await scene.add_rule([await scene.add_channel()], MessageEvent.EXIT_LOST)
    one = await scene.harness.declare("us-1", HEALTHY)
    await scene.move(one, HEALTHY, LOST)
    await scene.evaluate()
    async with write(scene.database) as unit:
        row = await unit.session.get(ExitRow, one)
        await exits.deregister(unit, row, scene.harness.pool.fleet_id)
    await scene.evaluate()
    assert len(await scene.rows()) == 1
    assert await scene.rows(MessageMemoryRow) == []


async def test_worker_sends_after_a_change_and_counts(scene, until, monkeypatch):
    """The whole worker with its lease: a change wakes it, and the message goes out."""
    fake = FakeSender()

    @asynccontextmanager
    async def opened(*_, **__):
        yield fake

    monkeypatch.setattr(worker, "Sender", opened)
    await scene.add_rule([await scene.add_channel()], MessageEvent.EXIT_LOST)
    one = await scene.harness.declare("us-1", HEALTHY)
    counters = MessageCounters()
    task = asyncio.create_task(worker.run_messages(scene.database, scene.clock, counters, pause_s=0.01))
    try:
        await scene.move(one, HEALTHY, LOST)
        await until(lambda: counters.attempts["sent"])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (len(fake.sent), counters.events[MessageEvent.EXIT_LOST]) == (1, 1)
