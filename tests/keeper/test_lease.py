"""One holder of the lease works at a time, and another replica follows it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from keeper import lease
from keeper.exit_health import HealthThresholds
from keeper.keeper import Keeper, run_keeper
from keeper.lease import LEASE_ID, hold_lease
from model.exit_states import ExitState
from model.repositories import heartbeats
from tests.tasks import running

pytestmark = pytest.mark.postgres

THRESHOLDS = HealthThresholds(timedelta(seconds=30), timedelta(seconds=300))


class Workers:
    """The workers that run now, and all that have run."""

    def __init__(self) -> None:
        self.now: list[str] = []
        self.ever: list[str] = []

    def work(self, name: str, *, every_s: float = 0.01):
        async def run(alive):
            self.now.append(name)
            self.ever.append(name)
            try:
                while True:
                    await alive()
                    await asyncio.sleep(every_s)
            finally:
                self.now.remove(name)

        return run


async def holder(database) -> int | None:
    """Return the server process of the connection that holds the lease."""
    connection = await database.connect()
    try:
        found = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = $1 AND database = ("
        return await connection.fetchval(
            f"{found}SELECT oid FROM pg_database WHERE datname = current_database())", LEASE_ID
        )
    finally:
        await connection.close()


async def end_connection(database, pid: int) -> None:
    connection = await database.connect()
    try:
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
    finally:
        await connection.close()


async def test_only_one_holder_of_the_lease_works(database, until):
    workers = Workers()
    async with running(hold_lease(database, workers.work("a"))):
        await until(lambda: workers.now)
        async with asyncio.timeout(60):
            await lease._hold_once(database, workers.work("b"))
    assert workers.ever == ["a"]


async def test_another_replica_takes_the_lease_of_a_lost_connection(database, until):
    workers = Workers()
    async with running(*(hold_lease(database, workers.work(name)) for name in "ab")):
        await until(lambda: workers.now)
        await end_connection(database, await holder(database))
        await until(lambda: len(workers.ever) == 2 and len(workers.now) == 1)
    assert workers.now == []


async def test_ended_keeper_frees_the_lease(database, until):
    workers = Workers()
    async with running(*(hold_lease(database, workers.work(name)) for name in "ab")) as tasks:
        await until(lambda: workers.now)
        (first,) = workers.now
        tasks["ab".index(first)].cancel()
        await until(lambda: workers.now and workers.now != [first])


async def test_lease_is_retried_after_the_work_lost_the_database(linked_database, until):
    database, link = linked_database
    workers = Workers()
    async with running(hold_lease(database, workers.work("a"))):
        await until(lambda: workers.now)
        await link.cut()
        await until(lambda: not workers.now)
        await link.restore()
        await until(lambda: workers.now)
    assert workers.ever == ["a", "a"]


async def test_lease_is_retried_on_a_connection_that_the_server_ended(linked_database, until):
    """asyncpg raises InternalClientError then, which is no error of PostgreSQL or of the network."""
    database, link = linked_database
    workers = Workers()
    async with running(hold_lease(database, workers.work("a", every_s=0.2))):
        await until(lambda: workers.now)
        for writer in link._writers:
            if isinstance(writer.get_extra_info("peername"), tuple):  # towards the client
                writer.write(last_words())
        await until(lambda: workers.ever == ["a", "a"])


def last_words() -> bytes:
    """Return PostgreSQL's message to a connection that it ends."""
    fields = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields


async def test_keeper_stops_when_its_lease_is_gone(database, clock, until, monkeypatch):
    """Another replica works by then, so the old one may at most finish the run that it has begun."""
    looks: list[Keeper] = []

    async def look(keeper):
        looks.append(keeper)

    monkeypatch.setattr(Keeper, "run_due", look)
    async with running(*(run_keeper(database, clock, THRESHOLDS, interval_s=0.02) for _ in range(2))):
        await until(lambda: looks)
        first = looks[0]
        await end_connection(database, await holder(database))
        await until(lambda: looks[-1] is not first)
        seen = len(looks)
        await until(lambda: len(looks) > seen + 10)
        assert first not in looks[seen + 5 :]


async def test_exception_in_the_work_propagates(database, until):
    async def broken(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await hold_lease(database, broken)

    async def is_free():  # PostgreSQL notices the end of the holder's connection with a delay
        return await holder(database) is None

    await until(is_free)


async def test_heartbeat_hint_wakes_the_keeper_at_once(harness, database, clock, until, monkeypatch):
    one = await harness.declare()
    clock.advance(seconds=1)
    look, looks = Keeper.run_due, []

    async def counted(keeper):
        await look(keeper)
        looks.append(clock())

    monkeypatch.setattr(Keeper, "run_due", counted)
    async with running(run_keeper(database, clock, THRESHOLDS, interval_s=60)):
        await until(lambda: len(looks) == 2)  # at its start, and when LISTEN is set up
        await harness.flush_watermark()
        await harness.send_heartbeat(one)
        async with database.session() as session:
            await heartbeats.wake_keeper(session)
        await until(lambda: len(looks) == 3)
    assert await harness.state(one) is ExitState.HEALTHY


async def test_keeper_runs_at_its_interval_without_hints(harness, database, clock, until):
    one = await harness.declare()
    clock.advance(seconds=1)
    async with running(run_keeper(database, clock, THRESHOLDS, interval_s=0.05)):
        await until(lambda: holder(database))
        await harness.flush_watermark()
        await harness.send_heartbeat(one)

        async def is_healthy():
            return await harness.state(one) is ExitState.HEALTHY

        await until(is_healthy)


async def test_keeper_survives_an_outage_of_postgresql(harness, linked_database, clock, until):
    database, link = linked_database
    one = await harness.declare()
    clock.advance(seconds=1)
    async with running(run_keeper(database, clock, THRESHOLDS, interval_s=0.05)) as (task,):
        await until(lambda: holder(harness.database))
        await link.cut()

        async def nobody_holds_it():
            return await holder(harness.database) is None

        await until(nobody_holds_it)
        await harness.flush_watermark()
        await harness.send_heartbeat(one)
        await link.restore()

        async def is_healthy():
            return await harness.state(one) is ExitState.HEALTHY

        await until(is_healthy)
        assert not task.done()
