"""A probe of PostgreSQL for health checks, which asks it at most once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from model.database import Database, DatabaseUnreachable
from model.repositories import worlds

CACHE_LIFETIME = timedelta(seconds=1)
_TIMEOUT_S = 1.0


class DatabaseProbe:
    """A probe that caches its result for CACHE_LIFETIME."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._lock = asyncio.Lock()
        self._checked_at: datetime | None = None
        self._reason: str | None = None

    async def check(self) -> str | None:
        """The reason why the database does not respond; None if it responds."""
        async with self._lock:
            now = self._clock()
            if self._checked_at is None or not timedelta(0) <= now - self._checked_at < CACHE_LIFETIME:
                self._reason = await self._query()
                self._checked_at = now
            return self._reason

    async def _query(self) -> str | None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await worlds.current_revision(self._database)
        except DatabaseUnreachable as error:
            return error.message
        except TimeoutError:
            return f"PostgreSQL did not respond within {_TIMEOUT_S:g} s"
        return None
