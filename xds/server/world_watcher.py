"""The watcher of revisions: it reads what changed and publishes it. Without PostgreSQL the last World stays published."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from model.change_feed import ChangeFeed
from model.database import Database, DatabaseUnreachable
from model.repositories import worlds
from xds.server.publisher import Publisher

log = structlog.get_logger()
_RETRY_S = 0.5


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


async def watch_world(database: Database, feed: ChangeFeed, publisher: Publisher, debounce: Debounce) -> None:
    """Load the World, then publish each newer revision, until cancelled."""
    reachable = True
    while True:
        try:
            await _catch_up(database, publisher)
        except DatabaseUnreachable as error:
            if reachable:
                log.warning("xds.database_unreachable", reason=error.message)
            reachable = False
            await asyncio.sleep(_RETRY_S)
            continue
        if not reachable:
            log.info("xds.database_reachable")
            reachable = True
        published_at = asyncio.get_running_loop().time()
        if await feed.wait():
            await debounce.wait_for_quiet(feed, published_at)


async def _catch_up(database: Database, publisher: Publisher) -> None:
    world = publisher.world
    caught_up = await worlds.catch_up(database, world) if world is not None else None
    if caught_up is None:
        loaded = await worlds.load(database)
        log.info("xds.world_loaded", revision=loaded.revision, exits=len(loaded.exits), gap=world is not None)
        publisher.start(loaded)
        return
    newer, changes = caught_up
    if changes:
        publisher.publish(newer, changes)
