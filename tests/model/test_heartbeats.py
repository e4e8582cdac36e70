"""Stored heartbeats: the newest of each known proxy, whatever the order of arrival."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from model.repositories import declared, exit_reports, heartbeats, sync
from model.repositories.heartbeats import Heartbeat
from model.repositories.sync import TypeSync
from model.tables import ExitRow, ProxyRow
from model.unit_of_work import write

pytestmark = pytest.mark.postgres

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def exits(database, declare):
    async with write(database) as unit:
        pool = await declare.pool(unit, await declare.fleet(unit))
        return [await declare.exit(unit, pool, f"exit-{number}") for number in range(20)]


def beat(proxy_id, *, after_s: float = 0, **said) -> Heartbeat:
    at = NOW + timedelta(seconds=after_s)
    good = Heartbeat(proxy_id, at, at, True, True, False, "", "1")
    return replace(good, **said)


async def store(database, *beats):
    async with database.session() as session:
        await heartbeats.store(session, beats)


async def heard(database, proxy_id) -> Heartbeat | None:
    async with database.session() as session:
        row = await heartbeats.find(session, proxy_id)
    return row and Heartbeat(**row.model_dump(exclude={"month_bytes"}))


async def test_exit_without_a_heartbeat_has_no_report_to_judge(database, exits):
    async with database.session() as session:
        assert await exit_reports.find_moving(session, NOW, NOW) == []
    assert await heard(database, exits[0].id) is None


async def test_the_newest_heartbeat_is_kept(database, exits):
    one = exits[0].id
    first, second = beat(one), beat(one, after_s=1, tunnel_up=False, reason="no handshake", stopping=True)
    await store(database, first)
    assert await heard(database, one) == first
    await store(database, second)
    await store(database, first)  # from a slower replica
    assert await heard(database, one) == second


async def test_newest_heartbeat_of_a_batch_is_kept(database, exits):
    one, two = exits[0].id, exits[1].id
    await store(database, beat(one, after_s=2, version="2"), beat(two), beat(one, after_s=1, version="1"))
    assert (await heard(database, one)).version == "2"
    assert await heard(database, two) == beat(two)


async def test_heartbeats_of_removed_proxies_are_dropped(database, exits, query):
    await store(database, beat(uuid4()), beat(exits[0].id))
    assert await query("SELECT proxy_id FROM heartbeat") == [(exits[0].id,)]
    await store(database, beat(uuid4()))
    await store(database)


async def test_heartbeat_makes_no_revision(database, exits, query):
    await store(database, beat(exits[0].id))
    assert await query("SELECT value FROM revision") == [(1,)]


async def test_removal_of_a_proxy_deletes_its_heartbeat(database, exits, query):
    await store(database, beat(exits[0].id))
    async with write(database) as unit:
        await heartbeats.forget(unit.session, exits[0].id)
        await heartbeats.forget(unit.session, exits[1].id)
        await declared.remove(unit, await declared.lock(unit.session, ExitRow, exits[0].id))
        await declared.remove(unit, await declared.lock(unit.session, ProxyRow, exits[0].id))
    assert await query("SELECT count(*) FROM heartbeat") == [(0,)]


async def meet(database, until, query, held, *statements):
    """Run statements that all come upon the row that `held` locks, and let them go on at once.

    Each then holds the rows that it came to before that one. If they go through the rows in different orders they wait
    for each other, and PostgreSQL ends one of them after a second.
    """
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    async def all_wait():
        return await query(waiting) == [(len(statements),)]

    async with asyncio.TaskGroup() as tasks, database.session() as session:
        await session.execute(text(held))
        for statement in statements:
            tasks.create_task(statement)
        await until(all_wait)


async def test_replicas_store_heartbeats_in_any_order_without_deadlock(database, exits, until, query):
    def beats(round_):
        return [beat(row.id, after_s=round_ * 100 + number) for number, row in enumerate(exits)]

    def turned(round_):  # this replica received them in the reverse order
        return [beat(row.id, after_s=round_ * 100 + number) for number, row in enumerate(exits[::-1])]

    await store(database, *beats(0))
    held = f"SELECT FROM heartbeat WHERE proxy_id = '{exits[10].id}' FOR UPDATE"
    await meet(database, until, query, held, store(database, *beats(1)), store(database, *turned(1)))


async def test_replicas_store_sync_statuses_in_any_order_without_deadlock(database, exits, until, query):
    async def record(statuses):
        async with database.session() as session:
            await sync.record(session, uuid4(), statuses)

    statuses = [TypeSync(row.id, "type.googleapis.com/x", wanted_revision=1) for row in exits]
    await record(statuses)
    held = f"SELECT FROM sync WHERE proxy_id = '{exits[10].id}' FOR UPDATE"
    await meet(database, until, query, held, record(statuses), record(statuses[::-1]))


async def test_ingest_watermark_is_the_newest_of_all_replicas(database):
    async def heard_until():
        async with database.session() as session:
            return await heartbeats.ingest_watermark(session)

    async def hear(replica, until):
        async with database.session() as session:
            await heartbeats.record_ingest_watermark(session, replica, until)

    assert await heard_until() is None
    await hear("a", NOW)
    await hear("b", NOW + timedelta(seconds=5))
    await hear("a", NOW + timedelta(seconds=1))
    assert await heard_until() == NOW + timedelta(seconds=5)
