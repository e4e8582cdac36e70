"""The leased worker of messages: it evaluates the rules and delivers messages. The clock is injected."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

import structlog

from keeper.lease import MESSAGE_LEASE_ID, LeaseCheck, hold_lease, run_while_leased
from keeper.messages.message_counters import MessageCounters
from keeper.messages.outbox import Outbox
from keeper.messages.rounds import MessageRounds
from keeper.messages.senders import Sender
from model.change_feed import ChangeFeed
from model.database import Database, DatabaseUnreachable

INTERVAL_S: Final = 2.0
"""The longest pause between two rounds. Changes, and channels that are free again, wake the worker earlier."""
_PAUSE_S: Final = 1.0
"""The shortest one: changes within it become one message, and no channel gets more than one message a second."""
log = structlog.get_logger()


async def run_messages(
    database: Database,
    clock: Callable[[], datetime],
    counters: MessageCounters,
    *,
    allows_local: bool = False,
    interval_s: float = INTERVAL_S,
    pause_s: float = _PAUSE_S,
) -> None:
    """Evaluate rules and deliver messages whenever this replica holds the lease, until cancelled."""
    feed = ChangeFeed(database, poll_s=interval_s)
    async with Sender(clock, allows_local=allows_local) as sender:
        outbox = Outbox(database, clock, sender, counters, feed.wake)

        async def run_rounds() -> None:
            rounds = MessageRounds(database, clock, counters)
            while True:
                await _guarded(rounds.run)
                await _guarded(outbox.start_due)
                await asyncio.sleep(pause_s)
                await feed.wait()

        async def work(check_lease: LeaseCheck) -> None:
            await run_while_leased(check_lease, run_rounds())

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(feed.run(), name="messages.feed")
                tasks.create_task(hold_lease(database, work, MESSAGE_LEASE_ID), name="messages.lease")
        finally:
            await outbox.finish()


async def _guarded(step: Callable[[], Awaitable[object]]) -> None:
    """Run a step. An error other than an outage is logged: messages must not end the control plane. Raises DatabaseUnreachable."""
    try:
        await step()
    except DatabaseUnreachable:
        raise
    except Exception:
        log.exception("messages.step_failed")
