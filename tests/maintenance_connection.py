"""A connection to the maintenance database that outlives the tests: to connect costs a quarter of a new database."""

from __future__ import annotations

import asyncio
import threading

import asyncpg


class MaintenanceConnection:
    """Executes statements for tests of any event loop, on a thread with a loop of its own. `close` ends both."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: asyncpg.Connection | None = None
        self._loop = asyncio.new_event_loop()
        self._one_at_a_time = asyncio.Lock()
        self._thread = threading.Thread(target=self._loop.run_forever, name="maintenance", daemon=True)
        self._thread.start()

    async def execute(self, *statements: str) -> None:
        """Execute statements one after another, each as its own transaction."""
        running = asyncio.run_coroutine_threadsafe(self._execute(statements), self._loop)
        await asyncio.wrap_future(running)

    async def _execute(self, statements: tuple[str, ...]) -> None:
        async with self._one_at_a_time:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(self._dsn)
            for statement in statements:
                await self._connection.execute(statement)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.close()
