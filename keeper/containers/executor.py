"""What was planned for a pool, done at the engine and kept in the database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from keeper.containers.commands import STOP_S
from keeper.containers.container_spec import TOKEN_PATH, PoolSlot, SpecContext, container_name, creation_body
from keeper.containers.engine import Engine
from keeper.containers.engine_responses import ContainerStatus
from keeper.containers.errors import EngineError, NoSuchContainer
from keeper.containers.inventory import Inventory
from keeper.containers.planning import Action, CreateContainer, DrainExit, RemoveContainer, StartContainer
from model.database import Database
from model.entities import Role
from model.exit_states import SERVING, ExitState
from model.repositories import containers, enrolment, exits
from model.repositories.containers import ContainerPool
from model.stored_containers import ContainerSettings
from model.tables import ContainerRow
from model.unit_of_work import write

log = structlog.get_logger()
TOKEN_FOR: Final = timedelta(minutes=5)
"""How long a container's join token is good."""
_NO_SECRETS: Final = "set EXITPLANE_CONTAINER_SECRETS where `exitplane serve` runs"


@dataclass(frozen=True, slots=True)
class ActionExecutor:
    """Does one action after the other, for one pool at one look. All of it may be done again."""

    database: Database
    engine: Engine
    ground: SpecContext
    clock: Callable[[], datetime]
    sight: Inventory
    pool: ContainerPool | None
    """None: it is gone, or wants no containers any more."""
    wish: ContainerSettings | None

    async def do(self, action: Action) -> None:
        """Raises EngineError, DatabaseUnreachable."""
        name = action.slot if isinstance(action, CreateContainer) else action.name
        log.info("container.action", action=type(action).__name__, container=name, reason=action.reason)
        match action:
            case CreateContainer(slot=slot):
                await self._make(slot)
            case StartContainer(name=name):
                await self._start(self.sight.known[name], self.sight.seen[name].id)
            case DrainExit(name=name, reason=reason):
                async with write(self.database) as unit:
                    row, inside = self.sight.known[name], self.sight.exits.get(name)
                    await containers.start_removal(unit, row, inside, reason, self.clock())
            case RemoveContainer(name=name, reason=reason, for_good=for_good):
                await self._remove(self.sight.known[name], reason, for_good=for_good)

    async def _make(self, slot: int) -> None:
        assert self.pool is not None
        assert self.wish is not None
        if self.wish.secrets and self.ground.secrets is None:
            raise EngineError("the pool names secrets, and there is no folder for them", hint=_NO_SECRETS)
        known = [row for row in self.sight.of_pool(self.pool.id) if row.slot == slot]
        name = known[0].name if known else container_name(self.pool, slot)
        row = known[0] if known else ContainerRow(name=name, pool_id=self.pool.id, slot=slot, started_at=self.clock())
        async with (
            self.database.session() as session
        ):  # first: what is made and not known would be found by its labels only
            await containers.save(session, row)
        made = await self.engine.create(name, creation_body(self.wish, PoolSlot(self.pool.id, slot, name), self.ground))
        await self._start(row, made)

    async def _start(self, row: ContainerRow, container_id: str) -> None:
        """With a token of its own, for this name and one key, which nobody but it is shown."""
        assert self.pool is not None
        async with self.database.session() as session:
            token = await enrolment.create_token(
                session,
                fleet_id=self.pool.fleet_id,
                role=Role.EXIT,
                ttl=TOKEN_FOR,
                now=self.clock(),
                name=row.name,
            )
        await self.engine.put_file(container_id, TOKEN_PATH, f"{token}\n".encode())
        row.started_at = self.clock()
        await self.engine.start(container_id)
        row.life, row.status = ContainerStatus.RUNNING, ""
        async with self.database.session() as session:
            await containers.save(session, row)

    async def _remove(self, row: ContainerRow, reason: str, *, for_good: bool) -> None:
        """Only what has the installation's label: somebody else may have taken the name meanwhile."""
        found, inside = self.sight.seen.get(row.name), self.sight.exits.get(row.name)
        if inside is not None and inside.state in SERVING and not for_good:  # nobody need wait for its silence
            async with write(self.database) as unit:
                old, new = inside.state, ExitState.UNREACHABLE
                await exits.change_state(
                    unit, inside.id, old, new, f"its container is replaced: {reason}", self.clock()
                )
        if found is not None:
            if found.life is ContainerStatus.RUNNING:
                with suppress(NoSuchContainer):
                    await self.engine.stop(found.id, STOP_S)
            await self.engine.remove(found.id)
        if for_good:
            async with write(self.database) as unit:
                await containers.delete_container(unit, row)
            return
        row.life, row.status = ContainerStatus.MISSING, ""
        async with self.database.session() as session:
            await containers.save(session, row)
