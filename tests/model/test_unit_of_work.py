"""A unit of work becomes one revision with its change-log rows, or leaves nothing."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from sqlalchemy.exc import IntegrityError

from model.change_feed import REVISION_CHANNEL
from model.entities import VALIDATOR, ResourceKey
from model.repositories import declared, worlds
from model.tables import FleetRow
from model.unit_of_work import decode_key, encode_key, write
from model.world import Kind

pytestmark = pytest.mark.postgres


async def test_write_of_several_rows_is_one_revision(database, declare, query):
    async with write(database) as unit:
        fleet = await declare.fleet(unit)
        pool = await declare.pool(unit, fleet)
    assert unit.revision == await worlds.current_revision(database) == 1
    rows = await query("SELECT revision, kind, key FROM change ORDER BY id")
    assert [(revision, kind) for revision, kind, _ in rows] == [(1, "fleet"), (1, "listener"), (1, "pool")]
    assert {rows[0][2], rows[2][2]} == {str(fleet.id), str(pool.id)}


async def test_row_that_is_touched_twice_is_logged_once(database, declare, query):
    async with write(database) as unit:
        fleet = await declare.fleet(unit)
        fleet.name = "renamed"
        await declared.save(unit, fleet)
    assert await query("SELECT count(*) FROM change WHERE kind = 'fleet'") == [(1,)]


async def test_write_that_touches_nothing_makes_no_revision(database):
    async with write(database) as unit:
        pass
    assert unit.revision is None
    assert await worlds.current_revision(database) == 0


async def test_saving_unchanged_values_touches_nothing(database, declare):
    async with write(database) as unit:
        fleet = await declare.fleet(unit)
    async with write(database) as unit:
        row = await declared.lock(unit.session, FleetRow, fleet.id)
        await declared.save_changes(unit, row, {"name": "demo"})
    assert unit.revision is None


async def test_failed_write_leaves_nothing(database, declare, query):
    async def fail():
        async with write(database) as unit:
            await declare.fleet(unit)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await query("SELECT (SELECT value FROM revision), (SELECT count(*) FROM fleet)") == [(0, 0)]
    assert await query("SELECT count(*) FROM change") == [(0,)]


async def test_write_that_the_database_refuses_leaves_nothing(database, declare, query):
    async with write(database) as unit:
        await declare.fleet(unit)

    async def clash():
        async with write(database) as unit:
            await declare.fleet(unit, "other")
            await declare.fleet(unit, "demo")

    with pytest.raises(IntegrityError):
        await clash()
    assert await query("SELECT (SELECT value FROM revision), (SELECT count(*) FROM fleet)") == [(1, 1)]
    assert await query("SELECT max(revision) FROM change") == [(1,)]


async def test_concurrent_writers_take_revisions_in_order_without_gaps(database, declare, query):
    async def declare_one(number):
        async with write(database) as unit:
            await declare.fleet(unit, f"fleet-{number}")
        return unit.revision

    taken = await asyncio.gather(*(declare_one(number) for number in range(40)))
    assert sorted(taken) == list(range(1, 41))
    assert await query("SELECT DISTINCT revision FROM change ORDER BY revision") == [(each,) for each in range(1, 41)]
    # in the order of their ids too, so that readers of the log see them in commit order
    logged = [revision for (revision,) in await query("SELECT revision FROM change ORDER BY id")]
    assert logged == sorted(logged)


async def test_reader_of_a_revision_sees_everything_up_to_it(database, declare):
    """A revision that committed before a lower one would show as a World without some fleets."""
    written = asyncio.Event()

    async def declare_all(writer):
        for number in range(10):
            async with write(database) as unit:
                await declare.fleet(unit, f"{writer}-{number}")

    async def read_all():
        while not written.is_set():
            world = await worlds.load(database)
            assert len(world.fleets) == world.revision

    async with asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(read_all()) for _ in range(2)]
        await asyncio.gather(*(declare_all(writer) for writer in range(4)))
        written.set()
        await asyncio.gather(*reading)


async def test_only_a_committed_write_notifies_with_its_revision(database, declare):
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def fail():
        async with write(database) as unit:
            await declare.fleet(unit)
            await unit.seal()
            raise ZeroDivisionError

    connection = await database.connect()
    try:
        await connection.add_listener(REVISION_CHANNEL, lambda *event: heard.put_nowait(event[3]))
        with pytest.raises(ZeroDivisionError):
            await fail()
        async with write(database) as unit:
            await declare.fleet(unit)
        async with asyncio.timeout(60):
            assert await heard.get() == "1"
        assert heard.empty()
    finally:
        await connection.close()


async def test_trace_context_of_a_write_is_found_by_its_revision(database, declare):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with write(database, traceparent=trace) as unit:
        await declare.fleet(unit)
    async with write(database) as unit:
        await declare.fleet(unit, "other")
    async with database.session() as session:
        assert await worlds.traceparent_of(session, 1) == trace
        assert await worlds.traceparent_of(session, 2) is None


RESOURCE = ResourceKey("gateway/1", "type.googleapis.com/x", 'na"me,[')


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        *((kind, uuid4()) for kind in (Kind.FLEET, Kind.LISTENER, Kind.POOL, Kind.EXIT, Kind.PROXY)),
        (Kind.ACCEPTED, RESOURCE),
        (Kind.REJECTION, (RESOURCE, "v1", uuid4())),
        (Kind.REJECTION, (RESOURCE, "", VALIDATOR)),
        (Kind.OVERRIDE, uuid4()),
    ],
)
def test_key_round_trips_through_the_change_log(kind, key):
    assert decode_key(kind, encode_key(key)) == key


def test_rejection_of_previous_release_is_read_without_its_proxy():
    raw = '["gateway/1", "type.googleapis.com/x", "routes", "v1"]'
    key = ResourceKey("gateway/1", "type.googleapis.com/x", "routes")
    assert decode_key(Kind.REJECTION, raw) == (key, "v1", VALIDATOR)
