"""The newest World that this replica has read."""

from __future__ import annotations

from model.database import Database
from model.repositories import worlds
from model.world import World


class WorldCache:
    """A cache of one World. A read of the next World costs only what changed since."""

    def __init__(self) -> None:
        self._world = World()

    async def read(self, database: Database) -> World:
        """Read the World as it is committed now. Raises DatabaseUnreachable."""
        known = self._world
        caught_up = await worlds.catch_up(database, known) if known.revision else None
        world = caught_up[0] if caught_up else await worlds.load(database)
        if world.revision >= self._world.revision:
            self._world = world
        return world
