"""The shared state of a replica's event streams: one LISTEN connection, the newest events and a bound on streams."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import structlog

from api.http.problems import Problem
from model.change_feed import ChangeFeed
from model.database import Database, DatabaseUnreachable
from model.repositories import events
from model.repositories.events import Event, EventBatch, EventFilter, EventsGone

log = structlog.get_logger()
_PAGE = 500
_RETRY_AFTER_S = 5


class EventHub:
    """A follower of the change log that runs while there are streams, and reads each change once for all of them.

    A stream that is more than `tail` events behind reads the table itself, page by page, as its client takes them. So the
    memory in use does not depend on the clients' speed.
    """

    def __init__(
        self,
        database: Database,
        *,
        streams_max: int = 256,
        streams_per_operator: int = 16,
        tail: int = 2_000,
        keepalive_s: float = 15.0,
        check_every_s: float = 60.0,
        stalled_after_s: float = 30.0,
        poll_s: float = 2.0,
    ) -> None:
        self._database = database
        self._streams_max = streams_max
        self._streams_per_operator = streams_per_operator
        self._streams_of: Counter[UUID] = Counter()
        self._tail_max = tail
        self._poll_s = poll_s
        self.keepalive_s = keepalive_s
        """The time without events after which a stream sends a keepalive."""
        self.check_every_s = check_every_s
        """The interval at which a stream checks its caller's permission again."""
        self.stalled_after_s = stalled_after_s
        """The time for which a client may leave pending data unread."""
        self.changed = asyncio.Event()
        """An event that is set, and replaced by a new one, when there are new events or the hub ends."""
        self.closing = False
        self.streams = 0
        self._task: asyncio.Task[None] | None = None
        self._tail: list[Event] = []
        self._from: int | None = None
        """The tail holds all events after this id, up to `_position`; None: nothing is read yet."""
        self._position = 0

    @contextmanager
    def open_stream(self, operator_id: UUID) -> Iterator[None]:
        """Count one stream of an operator while the block lasts.

        Raises Problem: 503 when the replica has too many, 429 when the operator has, with all credentials together.
        """
        if self.closing or self.streams >= self._streams_max:
            message = "this replica is stopping" if self.closing else f"this replica has {self.streams} event streams"
            headers = {"Retry-After": str(_RETRY_AFTER_S)}
            raise Problem(503, "too_many_streams", message, hint="try again in a moment", headers=headers)
        if self._streams_of[operator_id] >= self._streams_per_operator:
            message = f"this operator has {self._streams_of[operator_id]} event streams at this replica"
            raise Problem(429, "too_many_own_streams", message, hint="close one, or share one between programs")
        self.streams += 1
        self._streams_of[operator_id] += 1
        if self._task is None or self._task.done():
            self._from, self._tail = None, []
            self._task = asyncio.create_task(self._follow(), name="api.features.events")
        try:
            yield
        finally:
            self.streams -= 1
            self._streams_of[operator_id] -= 1
            self._streams_of += Counter()  # drops operators without streams
            if not self.streams and self._task is not None:
                self._task.cancel()
                self._task = None

    def close(self) -> None:
        """End all streams in order, and accept no others."""
        self.closing = True
        self._wake_streams()

    async def read_after(self, position: int, wanted: EventFilter) -> EventBatch:
        """Read the events after an id. Raises EventsGone, DatabaseUnreachable."""
        if self._from is None or not self._from <= position <= self._position:
            async with self._database.session() as session:
                return await events.read(session, position, _PAGE, wanted)
        begin = bisect_right(self._tail, position, key=lambda event: event.id)
        found = [event for event in self._tail[begin:] if wanted.matches(event)]
        return EventBatch(found, self._position, more=False)

    async def _follow(self) -> None:
        feed = ChangeFeed(self._database, poll_s=self._poll_s)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(feed.run(), name="api.features.events.feed")
                reachable = True
                while True:
                    try:
                        await self._catch_up()
                        reachable = True
                    except DatabaseUnreachable as error:
                        if reachable:
                            log.warning("events.database_unreachable", reason=error.message)
                        reachable = False
                    await feed.wait()
        except Exception:
            # the streams end, and clients that reconnect start a new follower
            log.exception("events.failed")
            self._from = None
        finally:
            self._wake_streams()

    async def _catch_up(self) -> None:
        batch: EventBatch | None = None
        while batch is None or batch.more:
            if self._from is None:
                async with self._database.session() as session:
                    self._from = self._position = await events.newest_id(session)
            try:
                async with self._database.session() as session:
                    batch = await events.read(session, self._position, _PAGE)
            except EventsGone:
                # the log was pruned during a long outage, or the database was replaced
                self._from, self._tail = None, []
                continue
            self._append(batch)
            self._wake_streams()

    def _append(self, batch: EventBatch) -> None:
        self._position = batch.position
        self._tail += batch.events
        if len(self._tail) > self._tail_max:
            self._from = self._tail[-self._tail_max - 1].id
            del self._tail[: -self._tail_max]

    def _wake_streams(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    @property
    def failed(self) -> bool:
        """True when the follower of the change log has ended."""
        return self._task is None or self._task.done()
