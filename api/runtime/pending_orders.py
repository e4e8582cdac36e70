"""The orders that wait for agents, remembered, so that a heartbeat needs no statement in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from uuid import UUID

from model.change_feed import ORDER_CHANNEL, ChangeFeed
from model.database import Database, DatabaseUnreachable
from model.repositories import orders
from model.repositories.orders import ExitOrder


class PendingOrders:
    """Follows what is ordered. `run` is a task for a TaskGroup. While PostgreSQL is away it tells what it knew."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._feed = ChangeFeed(database, ORDER_CHANNEL)
        self._pending: dict[UUID, list[ExitOrder]] = {}

    def of(self, exit_id: UUID) -> Sequence[ExitOrder]:
        """What an exit's agent should do now, the oldest first."""
        waiting = self._pending.get(exit_id)
        if not waiting:
            return ()
        now = self._clock()
        return [order for order in waiting if order.expires_at > now]

    def forget(self, exit_id: UUID, order_id: UUID) -> None:
        """One was settled."""
        self._pending[exit_id] = [order for order in self._pending.get(exit_id, ()) if order.id != order_id]

    async def look(self) -> None:
        """Read what is ordered. Raises DatabaseUnreachable."""
        pending: dict[UUID, list[ExitOrder]] = {}
        for order in await orders.pending(self._database, self._clock()):
            pending.setdefault(order.exit_id, []).append(order)
        self._pending = pending

    async def run(self) -> None:
        """Follow what is ordered until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed.run())
            while True:
                with suppress(DatabaseUnreachable):
                    await self.look()
                await self._feed.wait()
