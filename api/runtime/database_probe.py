"""Whether PostgreSQL answers, asked at most once a second however many ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from model.database import Database, DatabaseUnreachable
from model.repositories import worlds

CACHED = timedelta(seconds=1)
_TIMEOUT_S = 1.0


class DatabaseProbe:
    """Asks the database, and remembers the answer for CACHED."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._asking = asyncio.Lock()
        self._asked_at: datetime | None = None
        self._reason: str | None = None

    async def ask(self) -> str | None:
        """Why the database is away; None when it answers."""
        async with self._asking:
            now = self._clock()
            if self._asked_at is None or not timedelta(0) <= now - self._asked_at < CACHED:
                self._reason = await self._ask()
                self._asked_at = now
            return self._reason

    async def _ask(self) -> str | None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await worlds.current_revision(self._database)
        except DatabaseUnreachable as error:
            return error.message
        except TimeoutError:
            return f"PostgreSQL did not answer within {_TIMEOUT_S:g} s"
        return None
