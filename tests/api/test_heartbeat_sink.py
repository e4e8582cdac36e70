"""The heartbeat sink: batches, state changes, outages and cancellation."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from api.runtime.heartbeat_sink import HeartbeatSink
from model.change_feed import HEARTBEAT_CHANNEL
from model.database import Database, DatabaseUnreachable
from model.repositories.heartbeats import Heartbeat

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


def make_heartbeat(proxy_id, at, **said) -> Heartbeat:
    fields = {"tunnel_up": True, "envoy_up": True, "stopping": False, "reason": "", "version": "1"} | said
    return Heartbeat(proxy_id=proxy_id, heard_at=at, signed_at=at, **fields)


@pytest.fixture
async def proxy_id(demo) -> UUID:
    return UUID((await demo.declare_exit())["id"])


@pytest.fixture
def sink(database, clock) -> HeartbeatSink:
    return HeartbeatSink(database, replica="a", clock=clock)


@pytest.fixture
async def count_wakeups(database_url):
    """The number of notifications that woke the keeper."""
    calls = []
    connection = await asyncpg.connect(database_url)
    await connection.add_listener(HEARTBEAT_CHANNEL, lambda *_: calls.append(1))

    async def count() -> int:
        await connection.fetchval("SELECT 1")  # notifications arrive before the result
        return len(calls)

    yield count
    await connection.close()


async def test_flush_writes_newest_heartbeat_of_each_proxy(sink, proxy_id, clock, query):
    sink.add(make_heartbeat(proxy_id, clock(), reason="first"))
    sink.add(make_heartbeat(proxy_id, clock.advance(seconds=1), reason="second"))
    assert sink.pending_count == 1
    await sink.flush()
    assert [row["reason"] for row in await query("SELECT reason FROM heartbeat")] == ["second"]
    assert sink.pending_count == 0


async def test_empty_flush_records_ingest_time(sink, database, clock, query):
    for _ in range(2):
        heard_until = clock.advance(seconds=1)
        await sink.flush()
        assert await query("SELECT * FROM ear") == [{"replica": "a", "heard_until": heard_until}]
    await HeartbeatSink(database, replica="b", clock=clock).flush()
    assert [row["replica"] for row in await query("SELECT replica FROM ear ORDER BY replica")] == ["a", "b"]


async def test_only_state_changes_wake_keeper(sink, proxy_id, clock, count_wakeups):
    said = [({}, 1), ({}, 1), ({"tunnel_up": False}, 2), ({"tunnel_up": False, "reason": "still"}, 2), ({}, 3)]
    said += [({"envoy_up": False}, 4), ({"stopping": True}, 5), ({"stopping": True}, 5)]
    for what, expected in said:
        sink.add(make_heartbeat(proxy_id, clock.advance(seconds=10), **what))
        await sink.flush()
        assert await count_wakeups() == expected, what
    await sink.flush()
    assert await count_wakeups() == 5


async def test_heartbeat_of_removed_proxy_is_dropped(sink, proxy_id, clock, query):
    sink.add(make_heartbeat(uuid4(), clock()))
    sink.add(make_heartbeat(proxy_id, clock()))
    await sink.flush()
    assert [row["proxy_id"] for row in await query("SELECT proxy_id FROM heartbeat")] == [proxy_id]


async def test_batch_may_exceed_parameters_of_a_statement(sink, proxy_id, clock, query):
    for _ in range(40_000):
        sink.add(make_heartbeat(uuid4(), clock()))
    sink.add(make_heartbeat(proxy_id, clock()))
    await sink.flush()
    assert len(await query("SELECT proxy_id FROM heartbeat")) == 1


async def test_newest_heartbeats_are_written_after_outage(linked_database, demo, proxy_id, clock, query):
    database, link = linked_database
    sink = HeartbeatSink(database, replica="a", clock=clock)
    await sink.flush()
    away_since = clock()
    await link.cut()
    for number in range(3):
        sink.add(make_heartbeat(proxy_id, clock.advance(seconds=10), reason=str(number)))
        with pytest.raises(DatabaseUnreachable):
            await sink.flush()
        assert sink.pending_count == 1
    assert await query("SELECT heard_until FROM ear") == [{"heard_until": away_since}]
    await link.restore()
    await sink.flush()
    assert [row["reason"] for row in await query("SELECT reason FROM heartbeat")] == ["2"]
    assert await query("SELECT heard_until FROM ear") == [{"heard_until": clock()}]


async def test_heartbeat_during_failed_flush_replaces_older_one(clock):
    sink = HeartbeatSink(Database(NOWHERE), replica="a", clock=clock)
    one = uuid4()
    sink.add(make_heartbeat(one, clock(), reason="old"))
    flush = asyncio.create_task(sink.flush())
    await asyncio.sleep(0)
    sink.add(make_heartbeat(one, clock.advance(seconds=1), reason="new"))
    with pytest.raises(DatabaseUnreachable):
        await flush
    assert sink._pending[one].reason == "new"


async def test_failed_flush_wakes_keeper_later(linked_database, demo, proxy_id, clock, count_wakeups):
    database, link = linked_database
    sink = HeartbeatSink(database, replica="a", clock=clock)
    await link.cut()
    sink.add(make_heartbeat(proxy_id, clock()))
    with pytest.raises(DatabaseUnreachable):
        await sink.flush()
    await link.restore()
    await sink.flush()
    assert await count_wakeups() == 1


async def test_pending_heartbeats_are_bounded_oldest_dropped_first(clock):
    sink = HeartbeatSink(Database(NOWHERE), replica="a", clock=clock, proxies_max=3)
    ids = [uuid4() for _ in range(4)]
    for one in (ids[0], ids[1], ids[2], ids[0], ids[3]):
        sink.add(make_heartbeat(one, clock.advance(seconds=1)))
    assert set(sink._pending) == {ids[2], ids[0], ids[3]}
    with pytest.raises(DatabaseUnreachable):
        await sink.flush()
    assert sink.pending_count == 3
    assert len(sink._known) == 3


async def test_running_sink_writes_every_period(database, clock, query, until):
    sink = HeartbeatSink(database, replica="a", clock=clock, period_s=0.02)
    task = asyncio.create_task(sink.run())
    for _ in range(3):
        heard_until = clock.advance(seconds=1)

        async def is_recorded(expected=heard_until):
            return await query("SELECT 1 FROM ear WHERE heard_until = :at", at=expected)

        await until(is_recorded)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_running_sink_writes_state_change_at_once(database, proxy_id, clock, query, until):
    sink = HeartbeatSink(database, replica="a", clock=clock, period_s=3600)
    task = asyncio.create_task(sink.run())
    await until(lambda: query("SELECT 1 FROM ear"))
    sink.add(make_heartbeat(proxy_id, clock()))
    await until(lambda: query("SELECT 1 FROM heartbeat"))
    sink.add(make_heartbeat(proxy_id, clock.advance(seconds=10), reason="no news"))
    sink.add(make_heartbeat(proxy_id, clock.advance(seconds=10), reason="news", tunnel_up=False))
    await until(lambda: query("SELECT 1 FROM heartbeat WHERE reason = 'news'"))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_cancelled_sink_writes_pending_heartbeats(database, proxy_id, clock, query, until):
    sink = HeartbeatSink(database, replica="a", clock=clock, period_s=3600)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(sink.run())
        sink.add(make_heartbeat(proxy_id, clock()))
        await until(lambda: query("SELECT 1 FROM heartbeat"))
        sink.add(make_heartbeat(proxy_id, clock.advance(seconds=10), reason="last words"))
        assert sink.pending_count == 1
        task.cancel()
    assert [row["reason"] for row in await query("SELECT reason FROM heartbeat")] == ["last words"]


async def test_running_sink_survives_outage_and_logs_it_once(linked_database, demo, proxy_id, clock, query, until):
    database, link = linked_database
    sink = HeartbeatSink(database, replica="a", clock=clock, period_s=0.01)
    with capture_logs() as logged:
        task = asyncio.create_task(sink.run())
        await until(lambda: query("SELECT 1 FROM ear"))
        await link.cut()
        await until(lambda: "heartbeats.kept" in [entry["event"] for entry in logged])
        sink.add(make_heartbeat(proxy_id, clock.advance(seconds=10)))
        clock.advance(seconds=10)
        await link.restore()
        await until(lambda: query("SELECT 1 FROM heartbeat"))
        await until(lambda: "heartbeats.written_again" in [entry["event"] for entry in logged])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    events = [entry["event"] for entry in logged]
    assert events == ["heartbeats.kept", "heartbeats.written_again"]


async def test_sink_cancelled_during_outage_logs_loss(clock, until):
    sink = HeartbeatSink(Database(NOWHERE), replica="a", clock=clock, period_s=0.01)
    sink.add(make_heartbeat(uuid4(), clock()))
    with capture_logs() as logged:
        task = asyncio.create_task(sink.run())
        await until(lambda: "heartbeats.kept" in [entry["event"] for entry in logged])
        task.cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(task, return_exceptions=True)
    assert logged[-1]["event"] == "heartbeats.lost_at_stop"
    assert logged[-1]["proxies"] == 1


async def test_unexpected_write_error_does_not_end_sink(database, proxy_id, clock, query, until, monkeypatch):
    sink = HeartbeatSink(database, replica="a", clock=clock, period_s=0.01)
    write, failed = sink._write, []

    async def fail_once(batch, **given):
        if not failed:
            failed.append(1)
            raise RuntimeError("disk full")
        await write(batch, **given)

    monkeypatch.setattr(sink, "_write", fail_once)
    sink.add(make_heartbeat(proxy_id, clock()))
    with capture_logs() as logged:
        task = asyncio.create_task(sink.run())
        await until(lambda: query("SELECT 1 FROM heartbeat"))
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [entry["event"] for entry in logged] == ["heartbeats.not_written"]


async def test_older_heartbeat_does_not_replace_newer_one(database, proxy_id, clock, query):
    late, early = (HeartbeatSink(database, replica=name, clock=clock) for name in "ab")
    early.add(make_heartbeat(proxy_id, clock(), reason="old"))
    late.add(make_heartbeat(proxy_id, clock() + timedelta(seconds=1), reason="new"))
    await late.flush()
    await early.flush()
    assert [row["reason"] for row in await query("SELECT reason FROM heartbeat")] == ["new"]
