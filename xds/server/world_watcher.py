"""The watcher of revisions: it reads what changed and publishes it. Without PostgreSQL the last World stays published."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import structlog

from model.change_feed import ChangeFeed
from model.database import Database, DatabaseUnreachable
from model.repositories import worlds
from xds.server.publication import make_publication
from xds.server.publisher import Publisher

log = structlog.get_logger()
_RETRY_S = 0.5
_CATCH_UP_S = 2.0
"""The longest wait of a new stream for PostgreSQL."""


@dataclass(frozen=True, slots=True)
class Debounce:
    """The delays that let changes in quick succession be published together, in seconds.

    The first change after `floor_s` of quiet is published at once. Later changes wait until none came for `floor_s`, but
    never longer than `ceiling_s`.
    """

    floor_s: float = 0.02
    ceiling_s: float = 0.5

    async def wait_for_quiet(self, feed: ChangeFeed, published_at: float) -> None:
        """Wait until the changes that the feed announced should be published. `published_at` is in the loop's time."""
        clock = asyncio.get_running_loop().time
        started = clock()
        if started - published_at >= self.floor_s:
            return
        while (left_s := started + self.ceiling_s - clock()) > 0:
            if not await feed.wait(min(self.floor_s, left_s)):
                return


class WorldWatcher:
    """Loads the World and publishes each newer revision. `run` is its task."""

    def __init__(self, database: Database, feed: ChangeFeed, publisher: Publisher, debounce: Debounce) -> None:
        self._database = database
        self._feed = feed
        self._publisher = publisher
        self._debounce = debounce
        self._reachable = True
        self._next_read = asyncio.Event()
        """Set at the end of the next read."""

    async def run(self) -> None:
        """Load the World, then publish each newer revision, until cancelled."""
        while True:
            ended, self._next_read = self._next_read, asyncio.Event()
            try:
                await self._catch_up()
            except DatabaseUnreachable as error:
                if self._reachable:
                    log.warning("xds.database_unreachable", reason=error.message)
                self._reachable = False
                await asyncio.sleep(_RETRY_S)
                continue
            finally:
                ended.set()
            if not self._reachable:
                log.info("xds.database_reachable")
                self._reachable = True
            published_at = asyncio.get_running_loop().time()
            if await self._feed.wait():
                await self._debounce.wait_for_quiet(self._feed, published_at)

    async def catch_up(self) -> None:
        """Wait until everything that was committed before this call is published; not if PostgreSQL does not answer.

        All that wait at the same time share one read.
        """
        if not self._reachable:
            return
        ended = self._next_read
        self._feed.wake()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CATCH_UP_S):
                await ended.wait()

    async def _catch_up(self) -> None:
        world = self._publisher.world
        followed = await worlds.follow(self._database, world) if world is not None else None
        if followed is None:
            loaded = await worlds.load(self._database)
            log.info("xds.world_loaded", revision=loaded.revision, exits=len(loaded.exits), gap=world is not None)
            self._publisher.start(loaded)
            return
        newer, changes, commits = followed
        if changes:
            self._publisher.publish(newer, changes, make_publication(commits))
