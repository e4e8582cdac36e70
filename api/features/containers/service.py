"""Commands for containers and their logs.

The API has no container engine: it stores commands, and the keeper executes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.features.containers.schemas import (
    ContainerCommandOut,
    ContainerCommandsOut,
    ContainerOut,
    LastCommandOut,
    Verb,
)
from api.features.pools.container_states import NO_ENGINE
from api.http.field_errors import FieldError
from api.http.problems import Problem
from api.kernel.context import ApiContext
from api.kernel.shrink_guard import require_loss_approval
from api.kernel.writes import WriteContext, WriteReply
from model.audit_log import AuditEntry
from model.exit_states import SERVING
from model.repositories import container_commands, containers
from model.tables import ContainerCommandRow, ContainerRow

_LOGS_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.05


async def show_containers(session: AsyncSession, pool: Any) -> list[ContainerOut]:
    """Show the containers of a pool."""
    rows = (await containers.of_pools(session, [pool.id])).get(pool.id, [])
    exits = await containers.exits_in(session, [row.name for row in rows])
    commands = await container_commands.newest_of(session, [row.name for row in rows])
    return [_show(row, pool.name, exits.get(row.name), commands.get(row.name)) for row in rows]


def _show(
    row: ContainerRow, pool: str, inside: containers.ContainerExit | None, command: ContainerCommandRow | None
) -> ContainerOut:
    return ContainerOut.of(
        row,
        pool=pool,
        stopped=row.held,
        exit_id=inside and inside.id,
        exit_state=inside and inside.state,
        open_requests=inside.open_requests if inside else 0,
        last_command=command and LastCommandOut.of(command),
    )


async def find_container(session: AsyncSession, exit_row: Any) -> ContainerRow:
    """Find the container that an exit runs in. Raises Problem (409)."""
    row = await containers.find(session, exit_row.pool_id, exit_row.name)
    if row is None:
        message = "the exit does not run in a container of its pool"
        error = FieldError("{exit_id}", message, "start and stop it where it runs", exit_row.name)
        raise Problem(409, "no_container", message, errors=[error])
    return row


async def request_commands(
    work: WriteContext, rows: Iterable[ContainerRow], verb: Verb, fleet_id: UUID, *, in_turn: bool
) -> WriteReply:
    """Store a command for each container that stays. Raises Problem (409) when the fleet would shrink too much."""
    chosen = [row for row in rows if row.leaving_since is None]
    if verb == "stop":
        exits = await containers.exits_in(work.session, [row.name for row in chosen])
        offered = [each for each in exits.values() if each.state in SERVING and each.endpoint is not None]
        await require_loss_approval(work, fleet_id, len(offered))
    commands = []
    for row in chosen:
        command = ContainerCommandRow(container=row.name, verb=verb, in_turn=in_turn, asked_at=work.now)
        await container_commands.add(work.session, command)
        work.unit.audit(AuditEntry(verb, "container", row.name, fleet_id))
        commands.append(ContainerCommandOut.of(command))
    return WriteReply(202, ContainerCommandsOut(commands=commands))


async def read_logs(context: ApiContext, container: str, lines: int) -> str:
    """Read the last lines of a container's log through the keeper.

    Raises Problem: 409 with the engine's reason, 503 when no keeper answers in time.
    """
    command = ContainerCommandRow(container=container, verb="logs", lines=lines, asked_at=context.clock())
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _LOGS_TIMEOUT_S
    async with context.database.session() as session:
        await container_commands.add(session, command)
    try:
        while loop.time() < deadline:
            async with context.database.session() as session:
                found = await container_commands.find(session, command.id)
            if found is not None and found.done_at is not None:
                if found.error:
                    raise Problem(409, "no_logs", found.error)
                return found.answer
            await asyncio.sleep(_POLL_S)
    finally:
        async with context.database.session() as session:
            await container_commands.delete_command(session, command.id)
    message = f"no keeper with a container engine answered within {_LOGS_TIMEOUT_S:g} s"
    raise Problem(503, "no_container_engine", message, hint=NO_ENGINE)
