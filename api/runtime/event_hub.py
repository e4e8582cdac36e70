"""What the event streams of a replica share: one LISTEN connection, the newest events, and a bound on how many there are."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager

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
    """Follows the change log while there are streams; each change is read once, however many they are.

    A stream that is behind `tail` events reads the table itself, a page at a time, and only when its client takes it: what is
    held in memory does not depend on how fast clients read.
    """

    def __init__(
        self,
        database: Database,
        *,
        streams_max: int = 256,
        tail: int = 2_000,
        keepalive_s: float = 15.0,
        check_every_s: float = 60.0,
        stalled_after_s: float = 30.0,
        poll_s: float = 2.0,
    ) -> None:
        self._database = database
        self._streams_max = streams_max
        self._tail_max = tail
        self._poll_s = poll_s
        self.keepalive_s = keepalive_s
        """After so much silence a stream says that it is alive."""
        self.check_every_s = check_every_s
        """How often a stream asks whether its caller still may."""
        self.stalled_after_s = stalled_after_s
        """How long a client may take nothing of what waits for it."""
        self.turned = asyncio.Event()
        """Set, and replaced by another, when there is something new to look at."""
        self.closing = False
        self.streams = 0
        self._task: asyncio.Task[None] | None = None
        self._tail: list[Event] = []
        self._from: int | None = None
        """After this id the tail has all events, up to `_position`; None: nothing is known yet."""
        self._position = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the streams that a replica can have. Raises Problem (503)."""
        if self.closing or self.streams >= self._streams_max:
            message = "this replica ends" if self.closing else f"this replica has {self.streams} event streams"
            headers = {"Retry-After": str(_RETRY_AFTER_S)}
            raise Problem(503, "too_many_streams", message, hint="try again in a moment", headers=headers)
        self.streams += 1
        if self._task is None or self._task.done():
            self._from, self._tail = None, []
            self._task = asyncio.create_task(self._follow(), name="api.features.events")
        try:
            yield
        finally:
            self.streams -= 1
            if not self.streams and self._task is not None:
                self._task.cancel()
                self._task = None

    def close(self) -> None:
        """End the streams in order: each has its end sent. There will be no others."""
        self.closing = True
        self._turn()

    async def after(self, position: int, wanted: EventFilter) -> EventBatch:
        """What follows an id. Raises EventsGone, DatabaseUnreachable."""
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
            # the streams end, and whoever comes back begins anew
            log.exception("events.failed")
            self._from = None
        finally:
            self._turn()

    async def _catch_up(self) -> None:
        reading: EventBatch | None = None
        while reading is None or reading.more:
            if self._from is None:
                async with self._database.session() as session:
                    self._from = self._position = await events.newest_id(session)
            try:
                async with self._database.session() as session:
                    reading = await events.read(session, self._position, _PAGE)
            except EventsGone:
                # away for so long that the log was pruned meanwhile, or the database is another one by now
                self._from, self._tail = None, []
                continue
            self._append(reading)
            self._turn()

    def _append(self, reading: EventBatch) -> None:
        self._position = reading.position
        self._tail += reading.events
        if len(self._tail) > self._tail_max:
            self._from = self._tail[-self._tail_max - 1].id
            del self._tail[: -self._tail_max]

    def _turn(self) -> None:
        turned, self.turned = self.turned, asyncio.Event()
        turned.set()

    @property
    def failed(self) -> bool:
        """Whether nobody follows the log any more."""
        return self._task is None or self._task.done()
