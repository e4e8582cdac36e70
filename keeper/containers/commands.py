"""What operators wish of containers, carried out."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import structlog

from keeper.containers.container_spec import SpecContext
from keeper.containers.engine import Engine
from keeper.containers.errors import EngineError, NoSuchContainer
from keeper.containers.inventory import Inventory
from keeper.containers.planning import ENROL_WITHIN
from model.database import Database
from model.repositories import container_commands, containers
from model.tables import ContainerCommandRow, ContainerRow

log = structlog.get_logger()
STOP_S: Final = 15
"""How long a container may take to end: the agent in it lets open tunnels end for 5 s, unless it is told otherwise."""


async def execute_command(
    wish: ContainerCommandRow, sight: Inventory, engine: Engine, database: Database, now: datetime
) -> None:
    """Do what is wished, and say what became of it. Raises DatabaseUnreachable."""
    answer, error = "", ""
    row = sight.known.get(wish.container)
    try:
        if row is None:
            raise NoSuchContainer("there is no such container any more")
        answer = await _do(wish, row, sight, engine, database, now)
    except EngineError as refused:
        error = str(refused)
    log.info("container.wish", container=wish.container, verb=wish.verb, error=error)
    async with database.session() as session:
        await container_commands.complete(session, wish.id, now, answer=answer, error=error)


async def _do(
    wish: ContainerCommandRow, row: ContainerRow, sight: Inventory, engine: Engine, database: Database, now: datetime
) -> str:
    found = sight.seen.get(row.name)
    if wish.verb == "logs":
        if found is None:
            raise NoSuchContainer("the engine has no such container right now")
        return await engine.logs(found.id, wish.lines)
    row.held = wish.verb == "stop"
    if wish.verb != "stop":
        row.started_at = now
    async with database.session() as session:  # before it is done: what is stopped must not be taken for lost
        await containers.save(session, row)
    if found is None:
        return ""  # what is not held is made by itself
    if wish.verb == "start":
        await engine.start(found.id)
    elif wish.verb == "stop":
        await engine.stop(found.id, STOP_S)
    else:
        await engine.restart(found.id, STOP_S)
    return ""


def must_wait(wish: ContainerCommandRow, sight: Inventory, ground: SpecContext, now: datetime) -> bool:
    """Whether another container of the pool is coming up, so that this one's turn has not come."""
    row = sight.known.get(wish.container)
    if row is None or not wish.in_turn:
        return False
    others = [other for other in sight.of_pool(row.pool_id) if other.name != row.name and not other.held]
    return any(
        not sight.slot(other, None, ground).serves and now - other.started_at < ENROL_WITHIN
        for other in others
        if other.leaving_since is None
    )
