"""Follows the revisions: reads what changed and publishes it. PostgreSQL away means the last World stays."""

from __future__ import annotations

import asyncio

import structlog

from model.changes import Feed
from model.database import Database, DatabaseUnreachable
from model.repositories import worlds
from xds.server.publisher import Publisher

log = structlog.get_logger()
_RETRY_S = 0.5


async def follow(database: Database, feed: Feed, publisher: Publisher) -> None:
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
        await feed.wait()


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
