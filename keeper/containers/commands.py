"""Execution of the commands that operators give to containers: start, stop, restart, logs."""

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
"""The time that a container may take to end. By default its agent lets open tunnels end for 5 s."""


async def execute_command(
    command: ContainerCommandRow, inventory: Inventory, engine: Engine, database: Database, now: datetime
) -> None:
    """Execute a command and store its outcome. Raises DatabaseUnreachable."""
    answer, error = "", ""
    row = inventory.known.get(command.container)
    try:
        if row is None:
            raise NoSuchContainer("there is no such container any more")
        answer = await _execute(command, row, inventory, engine, database, now)
    except EngineError as refused:
        error = str(refused)
    log.info("container.command", container=command.container, verb=command.verb, error=error)
    async with database.session() as session:
        await container_commands.complete(session, command.id, now, answer=answer, error=error)


async def _execute(
    command: ContainerCommandRow,
    row: ContainerRow,
    inventory: Inventory,
    engine: Engine,
    database: Database,
    now: datetime,
) -> str:
    found = inventory.seen.get(row.name)
    if command.verb == "logs":
        if found is None:
            raise NoSuchContainer("the engine has no such container right now")
        return await engine.logs(found.id, command.lines)
    row.held = command.verb == "stop"
    if command.verb != "stop":
        row.started_at = now
    async with database.session() as session:  # before the engine acts: a stopped container must not be taken for lost
        await containers.save(session, row)
    if found is None:
        return ""  # the next plan creates a container that is not held
    if command.verb == "start":
        await engine.start(found.id)
    elif command.verb == "stop":
        await engine.stop(found.id, STOP_S)
    else:
        await engine.restart(found.id, STOP_S)
    return ""


def must_wait(command: ContainerCommandRow, inventory: Inventory, context: SpecContext, now: datetime) -> bool:
    """Tell whether a command that goes in turn waits, because another container of the pool is starting."""
    row = inventory.known.get(command.container)
    if row is None or not command.in_turn:
        return False
    others = [other for other in inventory.of_pool(row.pool_id) if other.name != row.name and not other.held]
    return any(
        not inventory.slot(other, None, context).serves and now - other.started_at < ENROL_WITHIN
        for other in others
        if other.leaving_since is None
    )
