"""Follows the revisions: reads what changed and publishes it. PostgreSQL away means the last World stays."""

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
    """How changes that come fast are published together.

    The first one after `floor_s` (seconds) of quiet is published at once. Those that follow wait until nothing came for
    `floor_s`, and never longer than `ceiling_s`.
    """

    floor_s: float = 0.02
    ceiling_s: float = 0.5

    async def settle(self, feed: ChangeFeed, published_at: float) -> None:
        """Return when what the feed hinted at should be published; `published_at` is the end of the last time."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        if begun - published_at >= self.floor_s:
            return
        while (left_s := begun + self.ceiling_s - clock()) > 0:
            if not await feed.wait(min(self.floor_s, left_s)):
                return


async def follow(database: Database, feed: ChangeFeed, publisher: Publisher, debounce: Debounce) -> None:
    """Load the World, then keep the publisher at the newest revision, until cancelled."""
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
            log.info("xds.database_back")
            reachable = True
        published_at = asyncio.get_running_loop().time()
        if await feed.wait():
            await debounce.settle(feed, published_at)


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
