"""A cache of the orders for agents, so that a heartbeat needs no statement in the database."""

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
    """A cache of pending orders that follows their table. It keeps its content while PostgreSQL is away.

    `run` is a task for a TaskGroup.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._feed = ChangeFeed(database, ORDER_CHANNEL)
        self._pending: dict[UUID, list[ExitOrder]] = {}

    def find(self, exit_id: UUID) -> Sequence[ExitOrder]:
        """Find the orders for an exit's agent that have not expired, the oldest first."""
        waiting = self._pending.get(exit_id)
        if not waiting:
            return ()
        now = self._clock()
        return [order for order in waiting if order.expires_at > now]

    def remove(self, exit_id: UUID, order_id: UUID) -> None:
        """Remove an order that the agent has settled."""
        self._pending[exit_id] = [order for order in self._pending.get(exit_id, ()) if order.id != order_id]

    async def refresh(self) -> None:
        """Read the pending orders. Raises DatabaseUnreachable."""
        pending: dict[UUID, list[ExitOrder]] = {}
        for order in await orders.pending(self._database, self._clock()):
            pending.setdefault(order.exit_id, []).append(order)
        self._pending = pending

    async def run(self) -> None:
        """Follow the table of orders until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed.run())
            while True:
                with suppress(DatabaseUnreachable):
                    await self.refresh()
                await self._feed.wait()
