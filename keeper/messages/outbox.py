"""Delivery of stored messages: at most one at a time for each channel, with bounded retries.

A message is taken in a transaction of its own before it is sent, and marked after. It is sent twice only if this process ends, or
PostgreSQL is away for `_MARK_S`, between the receiver's answer and the mark.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

import structlog

from keeper.messages.message_counters import MessageCounters
from keeper.messages.senders import Sender
from model.apprise_client import TIMEOUT_S as APPRISE_TIMEOUT_S
from model.apprise_client import NotSent
from model.database import Database, DatabaseUnreachable
from model.repositories import messages
from model.repositories.messages import FAILED, PENDING, SENT, ClaimedMessage

AT_ONCE: Final = 16
"""The channels that are served at the same time. Each takes a thread at most."""
PAUSES_S: Final = (10, 30, 60, 120, 300, 600, 600)
"""The pauses between attempts. After the last one a message is given up, half an hour after the first attempt."""
_MARK_S: Final = 60.0
"""The time for which marking is tried while PostgreSQL is away."""
_TAKEN_FOR: Final = timedelta(seconds=APPRISE_TIMEOUT_S + _MARK_S + 30)
"""After this time another replica takes a message that was neither sent nor given up: its sender is gone."""
STOP_S: Final = 5.0
log = structlog.get_logger()


class Outbox:
    """The deliveries of one replica. They outlive its lease until they are marked."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], datetime],
        sender: Sender,
        counters: MessageCounters,
        on_free: Callable[[], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._sender = sender
        self._counters = counters
        self._busy: dict[UUID, asyncio.Task[None]] = {}
        self._on_free = on_free

    async def start_due(self) -> None:
        """Begin to deliver what is due, for channels that are free. Raises DatabaseUnreachable."""
        free = AT_ONCE - len(self._busy)
        if free <= 0:
            return
        now = self._clock()
        async with self._database.session() as session:
            taken = await messages.claim(session, now, now + _TAKEN_FOR, list(self._busy), free)
        for message in taken:
            task = asyncio.create_task(self._deliver(message), name="message")
            self._busy[message.channel_id] = task
            task.add_done_callback(partial(self._free, message.channel_id))

    def _free(self, channel_id: UUID, _task: asyncio.Task[None]) -> None:
        del self._busy[channel_id]
        self._on_free()

    async def finish(self, within_s: float = STOP_S) -> None:
        """Wait for the deliveries that have begun, and cancel those that take longer."""
        tasks = [*self._busy.values()]
        if tasks:
            _, slow = await asyncio.wait(tasks, timeout=within_s)
            for each in slow:
                each.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    async def _deliver(self, message: ClaimedMessage) -> None:
        try:
            fields = await self._attempt(message)
        except Exception as error:  # a message that cannot be sent must not end the control plane
            log.exception("message.not_sent", message=message.id)
            fields = outcome_of_failure(message.attempt, type(error).__name__, self._clock())
        self._counters.attempts[{SENT: "sent", FAILED: "failed"}.get(fields["state"], "retried")] += 1
        await self._mark(message, fields)

    async def _attempt(self, message: ClaimedMessage) -> dict[str, Any]:
        async with self._database.session() as session:
            channel = await messages.find_channel(session, message.channel_id)
        if channel is None:
            return {"state": FAILED, "error": "the channel was deleted"}
        try:
            await self._sender.send(channel, message)
        except NotSent as error:
            log.warning("message.not_sent", message=message.id, channel=channel.name, reason=str(error))
            return outcome_of_failure(message.attempt, str(error), self._clock())
        return {"state": SENT, "sent_at": self._clock(), "error": ""}

    async def _mark(self, message: ClaimedMessage, fields: dict[str, Any]) -> None:
        """Store the outcome. While PostgreSQL is away it is tried again, for `_MARK_S`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _MARK_S
        while True:
            try:
                async with self._database.session() as session:
                    await messages.finish(session, message, **fields)
            except DatabaseUnreachable as error:
                if loop.time() >= deadline:
                    log.error("message.not_marked", message=message.id, reason=error.message)  # noqa: TRY400 - the text says all
                    return
                await asyncio.sleep(1)
            else:
                return


def outcome_of_failure(attempt: int, reason: str, now: datetime) -> dict[str, Any]:
    """Return what is stored after an attempt that failed: when the next one is due, or that there is none."""
    if attempt > len(PAUSES_S):
        return {"state": FAILED, "error": reason}
    return {"state": PENDING, "error": reason, "due_at": now + timedelta(seconds=PAUSES_S[attempt - 1])}
