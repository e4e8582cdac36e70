"""PostgreSQL's NOTIFY: the channels, how a transaction sends a hint, and the connection that listens.

A hint carries no data that anybody relies on (docs/architecture.md#notify-is-a-hint): the listener reads the truth from tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn

import asyncpg
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from model.database import UNREACHABLE, Database
from model.errors import ExitplaneError

REVISION_CHANNEL: Final = "exitplane_revision"
"""A revision was committed; a hint to every replica that follows the change log."""
HEARTBEAT_CHANNEL: Final = "exitplane_heartbeat"
"""A heartbeat that should change an exit's state was stored; a hint to the keeper."""
CONFIG_REQUEST_CHANNEL: Final = "exitplane_question"
"""A client of the API requested the configuration of a proxy; a hint to the replicas of the xDS server."""
CONTAINER_CHANNEL: Final = "exitplane_container"
"""A command for a container was stored; a hint to the keeper that has an engine."""
ORDER_CHANNEL: Final = "exitplane_orders"
"""An order for an exit's agent was stored or answered; a hint to the replicas of the API."""
_RECONNECT_MIN_S: Final = 0.1
_RECONNECT_MAX_S: Final = 2.0

log = structlog.get_logger()


async def notify(session: AsyncSession, channel: str, payload: str = "") -> None:
    """Wake the listeners of `channel` when the session's transaction commits."""
    await session.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": payload})


class ChangeFeed:
    """Wakes one listener on every NOTIFY, on every (re)connection, and at least every `poll_s` seconds.

    It never says what changed; the listener reads that from tables. A closed LISTEN connection is opened again, with backoff.
    A query every `poll_s` finds a connection that died without being closed.
    """

    def __init__(self, database: Database, *channels: str, poll_s: float = 2.0) -> None:
        self._database = database
        self._channels = channels or (REVISION_CHANNEL,)
        self._poll_s = poll_s
        self._hint = asyncio.Event()
        self.connected = False

    async def run(self) -> None:
        """Keep a LISTEN connection open until cancelled."""
        pause_s = _RECONNECT_MIN_S
        while True:
            try:
                await self._listen()
            except (ExitplaneError, asyncpg.PostgresError, asyncpg.InternalClientError, *UNREACHABLE) as error:
                # asyncpg raises InternalClientError on a connection that the server ended, before it notices the end
                if self.connected:
                    log.warning("changes.connection_lost", error=str(error))
                    pause_s = _RECONNECT_MIN_S
                self.connected = False
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _RECONNECT_MAX_S)

    async def _listen(self) -> NoReturn:
        connection = await self._database.connect()
        closed = asyncio.Event()
        connection.add_termination_listener(lambda _: closed.set())
        try:
            notified: Callable[..., None] = lambda *_: self._hint.set()  # noqa: E731 - asyncpg passes four arguments
            for channel in self._channels:
                await connection.add_listener(channel, notified)
            self.connected = True
            self._hint.set()
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(closed.wait(), self._poll_s)
                await connection.fetchval("SELECT 1", timeout=self._poll_s)
        finally:
            with suppress(Exception):
                await _close(connection)

    def wake(self) -> None:
        """Wake the listener as a NOTIFY does."""
        self._hint.set()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for a hint for at most `timeout_s` (None: `poll_s`), and return whether one came."""
        try:
            async with asyncio.timeout(self._poll_s if timeout_s is None else timeout_s):
                await self._hint.wait()
        except TimeoutError:
            return False
        self._hint.clear()
        return True


async def _close(connection: asyncpg.Connection[Any]) -> None:
    if not connection.is_closed():
        connection.terminate()
