"""One replica at a time: a lease that lives as long as a connection to PostgreSQL does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg
import structlog

from model.database import UNREACHABLE, Database, DatabaseUnreachable

LEASE_ID = 0x6B65_6570  # "keep"
CONTAINER_LEASE_ID = 0x636F_6E74  # "cont": of those replicas alone that have an engine
_RETRY_S = 1.0
log = structlog.get_logger()

LeaseCheck = Callable[[], Awaitable[None]]
"""Returns while the lease is held; raises when its connection is gone."""


async def hold_lease(
    database: Database, work: Callable[[LeaseCheck], Awaitable[None]], lease_id: int = LEASE_ID
) -> None:
    """Run `work` while this replica holds the lease, again and again, until cancelled.

    PostgreSQL frees the lease with its connection, so a replica that dies is followed by another. `work` asks `LeaseCheck` before
    it writes, and conditions its writes on what it read, for it may learn of a lost lease late.
    """
    while True:
        try:
            await _hold_once(database, work, lease_id)
        except (DatabaseUnreachable, asyncpg.PostgresError, asyncpg.InternalClientError, *UNREACHABLE) as error:
            # the third: asyncpg's word for a connection that the server has ended, before the end arrives
            log.debug("keeper.lease_lost", reason=str(error))
        await asyncio.sleep(_RETRY_S)


async def _hold_once(
    database: Database, work: Callable[[LeaseCheck], Awaitable[None]], lease_id: int = LEASE_ID
) -> None:
    connection = await database.connect()
    try:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", lease_id):
            return

        async def alive() -> None:
            await connection.execute("SELECT 1")

        log.info("keeper.lease_held" if lease_id == LEASE_ID else "containers.lease_held")
        await work(alive)
    finally:
        with suppress(Exception):  # it may be gone already, and a broken one cannot be closed politely
            connection.terminate()
