"""The sink of heartbeats: batches, news, outages and the end."""

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


def beat_of(proxy_id, at, **said) -> Heartbeat:
    whole = {"tunnel_up": True, "envoy_up": True, "leaving": False, "reason": "", "version": "1"} | said
    return Heartbeat(proxy_id=proxy_id, heard_at=at, **whole)


@pytest.fixture
async def proxy_id(demo) -> UUID:
    return UUID((await demo.declare_exit())["id"])


@pytest.fixture
def sink(database, clock) -> HeartbeatSink:
    return HeartbeatSink(database, replica="a", clock=clock)


@pytest.fixture
async def woken(database_url):
    """How often the keeper was woken."""
    calls = []
    connection = await asyncpg.connect(database_url)
    await connection.add_listener(HEARTBEAT_CHANNEL, lambda *_: calls.append(1))

    async def count() -> int:
        await connection.fetchval("SELECT 1")  # notifications come before the answer
        return len(calls)

    yield count
    await connection.close()


async def test_a_flush_keeps_the_newest_heartbeat_of_each_proxy(sink, proxy_id, clock, query):
    sink.hear(beat_of(proxy_id, clock(), reason="first"))
    sink.hear(beat_of(proxy_id, clock.advance(seconds=1), reason="second"))
    assert sink.pending_count == 1
    await sink.flush()
    assert [row["reason"] for row in await query("SELECT reason FROM heartbeat")] == ["second"]
    assert sink.pending_count == 0


async def test_a_flush_says_until_when_it_could_hear_even_when_nobody_spoke(sink, database, clock, query):
    for _ in range(2):
        heard_until = clock.advance(seconds=1)
        await sink.flush()
        assert await query("SELECT * FROM ear") == [{"replica": "a", "heard_until": heard_until}]
    await HeartbeatSink(database, replica="b", clock=clock).flush()
    assert [row["replica"] for row in await query("SELECT replica FROM ear ORDER BY replica")] == ["a", "b"]


async def test_only_news_wakes_the_keeper(sink, proxy_id, clock, woken):
    said = [({}, 1), ({}, 1), ({"tunnel_up": False}, 2), ({"tunnel_up": False, "reason": "still"}, 2), ({}, 3)]
    said += [({"envoy_up": False}, 4), ({"leaving": True}, 5), ({"leaving": True}, 5)]
    for what, expected in said:
        sink.hear(beat_of(proxy_id, clock.advance(seconds=10), **what))
        await sink.flush()
        assert await woken() == expected, what
    await sink.flush()
    assert await woken() == 5


async def test_heartbeats_of_proxies_that_are_gone_are_dropped(sink, proxy_id, clock, query):
    sink.hear(beat_of(uuid4(), clock()))
    sink.hear(beat_of(proxy_id, clock()))
    await sink.flush()
    assert [row["proxy_id"] for row in await query("SELECT proxy_id FROM heartbeat")] == [proxy_id]


async def test_a_batch_may_be_larger_than_what_a_statement_takes(sink, proxy_id, clock, query):
    for _ in range(40_000):
        sink.hear(beat_of(uuid4(), clock()))
    sink.hear(beat_of(proxy_id, clock()))
    await sink.flush()
    assert len(await query("SELECT proxy_id FROM heartbeat")) == 1


async def test_while_the_database_is_away_the_newest_heartbeats_are_kept_and_then_written(
    wired, demo, proxy_id, clock, query
):
    database, wire = wired
    sink = HeartbeatSink(database, replica="a", clock=clock)
    await sink.flush()
    away_since = clock()
    await wire.cut()
    for number in range(3):
        sink.hear(beat_of(proxy_id, clock.advance(seconds=10), reason=str(number)))
        with pytest.raises(DatabaseUnreachable):
            await sink.flush()
        assert sink.pending_count == 1
    assert await query("SELECT heard_until FROM ear") == [{"heard_until": away_since}]
    await wire.mend()
    await sink.flush()
    assert [row["reason"] for row in await query("SELECT reason FROM heartbeat")] == ["2"]
    assert await query("SELECT heard_until FROM ear") == [{"heard_until": clock()}]


async def test_what_arrives_while_a_flush_fails_is_newer_than_what_it_held(clock):
    sink = HeartbeatSink(Database(NOWHERE), replica="a", clock=clock)
    one = uuid4()
    sink.hear(beat_of(one, clock(), reason="old"))
    flush = asyncio.create_task(sink.flush())
    await asyncio.sleep(0)
    sink.hear(beat_of(one, clock.advance(seconds=1), reason="new"))
    with pytest.raises(DatabaseUnreachable):
        await flush
    assert sink._pending[one].reason == "new"


async def test_news_of_a_failed_flush_still_wakes_the_keeper_later(wired, demo, proxy_id, clock, woken):
    database, wire = wired
    sink = HeartbeatSink(database, replica="a", clock=clock)
    await wire.cut()
    sink.hear(beat_of(proxy_id, clock()))
    with pytest.raises(DatabaseUnreachable):
        await sink.flush()
    await wire.mend()
    await sink.flush()
    assert await woken() == 1


async def test_what_is_kept_is_bounded_and_those_heard_longest_ago_go_first(clock):
    sink = HeartbeatSink(Database(NOWHERE), replica="a", clock=clock, proxies_max=3)
    ids = [uuid4() for _ in range(4)]
    for one in (ids[0], ids[1], ids[2], ids[0], ids[3]):
        sink.hear(beat_of(one, clock.advance(seconds=1)))
    assert set(sink._pending) == {ids[2], ids[0], ids[3]}
    with pytest.raises(DatabaseUnreachable):
        await sink.flush()
    assert sink.pending_count == 3
    assert len(sink._said) == 3


async def test_a_running_sink_writes_every_period_without_any_heartbeat(database, clock, query, until):
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


async def test_a_running_sink_does_not_make_news_wait_for_the_period(database, proxy_id, clock, query, until):
    sink = HeartbeatSink(database, replica="a", clock=clock, period_s=3600)
    task = asyncio.create_task(sink.run())
    await until(lambda: query("SELECT 1 FROM ear"))
    sink.hear(beat_of(proxy_id, clock()))
    await until(lambda: query("SELECT 1 FROM heartbeat"))
    sink.hear(beat_of(proxy_id, clock.advance(seconds=10), reason="no news"))
    sink.hear(beat_of(proxy_id, clock.advance(seconds=10), reason="news", tunnel_up=False))
    await until(lambda: query("SELECT 1 FROM heartbeat WHERE reason = 'news'"))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_sink_that_is_ended_writes_what_is_left(database, proxy_id, clock, query, until):
    sink = HeartbeatSink(database, replica="a", clock=clock, period_s=3600)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(sink.run())
        sink.hear(beat_of(proxy_id, clock()))
        await until(lambda: query("SELECT 1 FROM heartbeat"))
        sink.hear(beat_of(proxy_id, clock.advance(seconds=10), reason="last words"))
        assert sink.pending_count == 1
        task.cancel()
    assert [row["reason"] for row in await query("SELECT reason FROM heartbeat")] == ["last words"]


async def test_a_running_sink_outlives_an_outage_and_says_so_once(wired, demo, proxy_id, clock, query, until):
    database, wire = wired
    sink = HeartbeatSink(database, replica="a", clock=clock, period_s=0.01)
    with capture_logs() as logged:
        task = asyncio.create_task(sink.run())
        await until(lambda: query("SELECT 1 FROM ear"))
        await wire.cut()
        await until(lambda: "heartbeats.kept" in [entry["event"] for entry in logged])
        sink.hear(beat_of(proxy_id, clock.advance(seconds=10)))
        clock.advance(seconds=10)
        await wire.mend()
        await until(lambda: query("SELECT 1 FROM heartbeat"))
        await until(lambda: "heartbeats.written_again" in [entry["event"] for entry in logged])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    events = [entry["event"] for entry in logged]
    assert events == ["heartbeats.kept", "heartbeats.written_again"]


async def test_a_sink_that_ends_during_an_outage_says_what_was_lost(clock, until):
    sink = HeartbeatSink(Database(NOWHERE), replica="a", clock=clock, period_s=0.01)
    sink.hear(beat_of(uuid4(), clock()))
    with capture_logs() as logged:
        task = asyncio.create_task(sink.run())
        await until(lambda: "heartbeats.kept" in [entry["event"] for entry in logged])
        task.cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(task, return_exceptions=True)
    assert logged[-1]["event"] == "heartbeats.lost_at_stop"
    assert logged[-1]["proxies"] == 1


async def test_an_unexpected_failure_of_a_write_does_not_end_the_sink(
    database, proxy_id, clock, query, until, monkeypatch
):
    sink = HeartbeatSink(database, replica="a", clock=clock, period_s=0.01)
    write, failed = sink._write, []

    async def fail_once(batch, **given):
        if not failed:
            failed.append(1)
            raise RuntimeError("disk full")
        await write(batch, **given)

    monkeypatch.setattr(sink, "_write", fail_once)
    sink.hear(beat_of(proxy_id, clock()))
    with capture_logs() as logged:
        task = asyncio.create_task(sink.run())
        await until(lambda: query("SELECT 1 FROM heartbeat"))
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [entry["event"] for entry in logged] == ["heartbeats.not_written"]


async def test_an_older_heartbeat_does_not_replace_a_newer_one_of_another_replica(database, proxy_id, clock, query):
    late, early = (HeartbeatSink(database, replica=name, clock=clock) for name in "ab")
    early.hear(beat_of(proxy_id, clock(), reason="old"))
    late.hear(beat_of(proxy_id, clock() + timedelta(seconds=1), reason="new"))
    await late.flush()
    await early.flush()
    assert [row["reason"] for row in await query("SELECT reason FROM heartbeat")] == ["new"]
