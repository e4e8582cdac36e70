"""What the API knows of containers. It has no engine: what is asked is written down, and the keeper carries it out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from api.features.containers.schemas import (
    ContainerCommandOut,
    ContainerCommandsOut,
    ContainerOut,
    ContainersStateOut,
    LastCommandOut,
    Verb,
)
from api.http.field_errors import FieldError
from api.http.problems import Problem
from api.kernel.context import ApiContext, ReadContext
from api.kernel.shrink_guard import no_silent_loss
from api.kernel.writes import WriteContext, WriteReply
from model.audit_log import AuditEntry
from model.exit_states import SERVING
from model.repositories import container_commands, containers
from model.stored_containers import read_containers
from model.tables import ContainerCommandRow, ContainerEngineRow, ContainerRow

FORGOTTEN_AFTER: Final = timedelta(seconds=30)
"""How old the keeper's last look at the engine may be until nobody is said to look after containers."""
_LOGS_WITHIN_S: Final = 5.0
_LOOK_EVERY_S: Final = 0.05
_NOBODY: Final = (
    "no control plane with a container engine looks after this; set EXITPLANE_CONTAINER_ENGINE where one runs"
)


async def states_of(look: ReadContext, pools: Sequence[Any]) -> dict[Any, ContainersStateOut]:
    """How it stands with the containers of pools, by pool; without those that want and have none."""
    rows = await containers.of_pools(look.session, [pool.id for pool in pools])
    chosen = [pool for pool in pools if pool.containers is not None or pool.id in rows]
    if not chosen:
        return {}
    engine = await containers.engine(look.session)
    standings = await containers.pool_statuses(look.session, [pool.id for pool in chosen])
    found = {}
    for pool in chosen:
        standing = standings.get(pool.id)
        least = 0 if pool.containers is None else read_containers(pool.containers).minimum
        trouble, since = _trouble(engine, look.heard_since)
        if not trouble and standing is not None and pool.containers is not None:
            trouble, since = standing.error, standing.error_since
        found[pool.id] = ContainersStateOut(
            wanted=standing.wanted if standing and pool.containers is not None else least,
            running=sum(row.life == "running" for row in rows.get(pool.id, ())),
            error=trouble,
            error_since=since,
        )
    return found


def _trouble(engine: ContainerEngineRow | None, heard_since: datetime) -> tuple[str, datetime | None]:
    if engine is None or engine.looked_at < heard_since - FORGOTTEN_AFTER:
        return _NOBODY, engine.looked_at if engine else None
    return engine.error, engine.error_since


async def show(session: AsyncSession, pool: Any) -> list[ContainerOut]:
    """The containers of a pool."""
    rows = (await containers.of_pools(session, [pool.id])).get(pool.id, [])
    exits = await containers.exits_in(session, [row.name for row in rows])
    wishes = await container_commands.newest_of(session, [row.name for row in rows])
    return [_show(row, pool.name, exits.get(row.name), wishes.get(row.name)) for row in rows]


def _show(
    row: ContainerRow, pool: str, inside: containers.ContainerExit | None, wish: ContainerCommandRow | None
) -> ContainerOut:
    return ContainerOut.of(
        row,
        pool=pool,
        stopped=row.held,
        exit_id=inside and inside.id,
        exit_state=inside and inside.state,
        open_requests=inside.open_requests if inside else 0,
        last_wish=wish and LastCommandOut.of(wish),
    )


async def container_of(session: AsyncSession, exit_row: Any) -> ContainerRow:
    """The container that an exit runs in. Raises Problem (409)."""
    row = await containers.find(session, exit_row.pool_id, exit_row.name)
    if row is None:
        message = "the exit runs in no container of its pool"
        error = FieldError("{exit_id}", message, "start and stop it where it runs", exit_row.name)
        raise Problem(409, "no_container", message, errors=[error])
    return row


async def wish_for(
    work: WriteContext, rows: Iterable[ContainerRow], verb: Verb, fleet_id: Any, *, in_turn: bool
) -> WriteReply:
    """Ask that something be done to containers. Raises Problem (409) when too little of the fleet would be left."""
    chosen = [row for row in rows if row.leaving_since is None]
    if verb == "stop":
        exits = await containers.exits_in(work.session, [row.name for row in chosen])
        offered = [each for each in exits.values() if each.state in SERVING and each.endpoint is not None]
        await no_silent_loss(work, fleet_id, len(offered))
    wishes = []
    for row in chosen:
        wish = ContainerCommandRow(container=row.name, verb=verb, in_turn=in_turn, asked_at=work.now)
        await container_commands.add(work.session, wish)
        work.unit.audit(AuditEntry(verb, "container", row.name, fleet_id))
        wishes.append(ContainerCommandOut.of(wish))
    return WriteReply(202, ContainerCommandsOut(wishes=wishes))


async def logs(context: ApiContext, container: str, lines: int) -> str:
    """The last lines that a container wrote. Raises Problem (409, 503) with the engine's reason, or when nobody answers."""
    wish = ContainerCommandRow(container=container, verb="logs", lines=lines, asked_at=context.clock())
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _LOGS_WITHIN_S
    async with context.database.session() as session:
        await container_commands.add(session, wish)
    try:
        while loop.time() < deadline:
            async with context.database.session() as session:
                found = await container_commands.find(session, wish.id)
            if found is not None and found.done_at is not None:
                if found.error:
                    raise Problem(409, "no_logs", found.error)
                return found.answer
            await asyncio.sleep(_LOOK_EVERY_S)
    finally:
        async with context.database.session() as session:
            await container_commands.delete_command(session, wish.id)
    raise Problem(503, "no_container_engine", "nobody with a container engine answered in time", hint=_NOBODY)
