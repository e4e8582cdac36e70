"""The lease: the right to be the one replica that does some work, as long as its connection to PostgreSQL lives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import asyncpg
import structlog

from model.database import UNREACHABLE, Database, DatabaseUnreachable

LEASE_ID: Final = 0x6B65_6570  # "keep"
CONTAINER_LEASE_ID: Final = 0x636F_6E74  # "cont": taken only by replicas that have an engine
CERTIFICATE_LEASE_ID: Final = 0x6365_7274  # "cert": taken only by replicas that have a folder of certificates
MESSAGE_LEASE_ID: Final = 0x6D65_7367  # "mesg"
TELEGRAM_LEASE_ID: Final = 0x7465_6C65  # "tele": taken only by replicas that have the bot's token
_RETRY_S: Final = 1.0
_CHECK_LEASE_EVERY_S: Final = 1.0
_HELD: Final = {
    LEASE_ID: "keeper.lease_held",
    CONTAINER_LEASE_ID: "containers.lease_held",
    CERTIFICATE_LEASE_ID: "certificates.lease_held",
    MESSAGE_LEASE_ID: "messages.lease_held",
    TELEGRAM_LEASE_ID: "telegram.lease_held",
}
log = structlog.get_logger()

LeaseCheck = Callable[[], Awaitable[None]]
"""Returns while the lease is held; raises when its connection is gone."""


async def hold_lease(
    database: Database, work: Callable[[LeaseCheck], Awaitable[None]], lease_id: int = LEASE_ID
) -> None:
    """Run `work` whenever this replica holds the lease, until cancelled.

    PostgreSQL frees the advisory lock with its connection, so another replica follows one that dies. `work` calls the check
    before it writes. It also makes its writes conditional on what it read, because it may learn of a lost lease late.
    """
    while True:
        try:
            await _hold_once(database, work, lease_id)
        except (DatabaseUnreachable, asyncpg.PostgresError, asyncpg.InternalClientError, *UNREACHABLE) as error:
            # asyncpg raises InternalClientError on a connection that the server ended, before it notices the end
            log.debug("keeper.lease_lost", reason=str(error))
        await asyncio.sleep(_RETRY_S)


async def _hold_once(
    database: Database, work: Callable[[LeaseCheck], Awaitable[None]], lease_id: int = LEASE_ID
) -> None:
    connection = await database.connect()
    try:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", lease_id):
            return

        async def check_lease() -> None:
            await connection.execute("SELECT 1")

        log.info(_HELD[lease_id])
        await work(check_lease)
    finally:
        with suppress(Exception):  # it may be gone already, and a broken one cannot be closed politely
            connection.terminate()


async def run_while_leased(check_lease: LeaseCheck, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until the lease is lost, then cancel it at once. Raises what either raises."""
    working = asyncio.create_task(work, name="lease.work")
    watching = asyncio.create_task(_watch(check_lease), name="lease.watch")
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        for task in (watching, working):
            if task.done():
                task.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _watch(check_lease: LeaseCheck) -> None:
    while True:
        await check_lease()
        await asyncio.sleep(_CHECK_LEASE_EVERY_S)
