"""The change feed wakes its listener on NOTIFY, on every (re)connection, and at every poll."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from model.change_feed import HEARTBEAT_CHANNEL, ChangeFeed
from model.repositories import heartbeats
from model.unit_of_work import write
from tests import tasks

pytestmark = pytest.mark.postgres

NEVER_S = 3600.0
"""A poll interval that no test reaches: a wake-up within SOON_S was not the poll."""
SOON_S = 60.0


@asynccontextmanager
async def running(feed: ChangeFeed):
    async with tasks.running(feed.run()):
        yield feed


async def wakes(feed: ChangeFeed) -> None:
    async with asyncio.timeout(SOON_S):
        await feed.wait()


async def listeners(query) -> list[int]:
    rows = await query("SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()")
    return [pid for (pid,) in rows]


async def test_connection_wakes_the_listener(database):
    """Otherwise writes from before the connection would be missed."""
    async with running(ChangeFeed(database, poll_s=NEVER_S)) as feed:
        await wakes(feed)
        assert feed.connected


async def test_write_wakes_the_listener(database, declare):
    async with running(ChangeFeed(database, poll_s=NEVER_S)) as feed:
        await wakes(feed)
        waiting = asyncio.ensure_future(wakes(feed))
        async with write(database) as unit:
            await declare.fleet(unit)
        await waiting


async def test_write_while_the_listener_is_busy_wakes_its_next_wait(database, declare, until):
    async with running(ChangeFeed(database, poll_s=NEVER_S)) as feed:
        await wakes(feed)
        async with write(database) as unit:
            await declare.fleet(unit)
        await until(feed._hint.is_set)
        await wakes(feed)


class Counted(asyncio.Event):
    """An event that counts how often it was set."""

    times = 0

    def set(self):
        self.times += 1
        super().set()


async def test_only_subscribed_channels_wake_the_listener(database, declare):
    async with running(ChangeFeed(database, HEARTBEAT_CHANNEL, poll_s=NEVER_S)) as feed:
        await wakes(feed)
        feed._hint = Counted()
        async with write(database) as unit:
            await declare.fleet(unit)
        async with database.session() as session:
            await heartbeats.wake_keeper(session)
        await wakes(feed)
        assert feed._hint.times == 1  # notifications arrive in the order of the commits


async def test_reconnection_wakes_the_listener(database, declare, query):
    """Notifications during the reconnection are lost."""
    async with running(ChangeFeed(database, poll_s=NEVER_S)) as feed:
        await wakes(feed)
        (pid,) = await listeners(query)
        waiting = asyncio.ensure_future(wakes(feed))
        await query("SELECT pg_terminate_backend(:pid)", pid=pid)
        await waiting
        assert await listeners(query) != [pid]
        waiting = asyncio.ensure_future(wakes(feed))
        async with write(database) as unit:
            await declare.fleet(unit)
        await waiting


async def test_repeated_connection_loss_does_not_grow_the_backoff(database, query, until):
    async with running(ChangeFeed(database, poll_s=NEVER_S)) as feed:
        await wakes(feed)
        for _ in range(6):
            (pid,) = await until(lambda: listeners(query))
            await query("SELECT pg_terminate_backend(:pid)", pid=pid)
            async with asyncio.timeout(1.0):
                await feed.wait()


async def test_feed_survives_an_outage_of_postgresql(linked_database, declare, until):
    database, link = linked_database
    async with running(ChangeFeed(database, poll_s=NEVER_S)) as feed:
        await wakes(feed)
        await link.cut()
        await until(lambda: not feed.connected)
        waiting = asyncio.ensure_future(wakes(feed))
        await link.restore()
        await waiting
        assert feed.connected


async def test_silent_connection_is_replaced(linked_database, until):
    """A network that drops everything delivers no end of the connection; only the query at every poll fails."""
    database, link = linked_database
    async with running(ChangeFeed(database, poll_s=0.1)) as feed:
        await until(lambda: feed.connected)
        for writer in link._writers:
            writer.transport.pause_reading()
        await until(lambda: not feed.connected)
        await until(lambda: feed.connected)


async def test_connection_that_the_server_ended_is_replaced_before_its_end(linked_database, until):
    """asyncpg raises InternalClientError then, which is no error of PostgreSQL or of the network."""
    database, link = linked_database
    async with running(ChangeFeed(database, poll_s=0.1)) as feed:
        await until(lambda: feed.connected)
        first = {*link._writers}
        for writer in first:
            if isinstance(writer.get_extra_info("peername"), tuple):  # towards the client
                writer.write(last_words())
        await until(lambda: not feed.connected)
        await until(lambda: feed.connected and {*link._writers} - first)


def last_words() -> bytes:
    """Return PostgreSQL's message to a connection that it ends."""
    fields = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields


async def test_poll_wakes_the_listener_without_a_notification(database):
    feed = ChangeFeed(database, poll_s=0.05)  # the feed is not run, so it never listens
    await wakes(feed)
    assert not feed.connected
