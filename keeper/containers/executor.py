"""Execution of a pool's planned actions at the engine and in the database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from keeper.containers.commands import STOP_S
from keeper.containers.container_spec import CA_PATH, TOKEN_PATH, PoolSlot, SpecContext, container_name, creation_body
from keeper.containers.engine import Engine
from keeper.containers.engine_responses import ContainerState
from keeper.containers.errors import EngineError, NoSuchContainer
from keeper.containers.inventory import Inventory
from keeper.containers.planning import Action, CreateContainer, DrainExit, RemoveContainer, StartContainer
from keeper.containers.secret_files import check_secret_files
from model.audit_log import Actor, AuditEntry
from model.database import Database
from model.entities import Role
from model.exit_states import SERVING, ExitState
from model.repositories import containers, exits, join_tokens
from model.repositories.containers import ContainerPool
from model.stored_containers import ContainerSettings
from model.tables import ContainerRow
from model.token_rights import TokenRights
from model.unit_of_work import write

log = structlog.get_logger()
TOKEN_LIFETIME: Final = timedelta(minutes=5)
"""The lifetime of a container's join token."""


def check_allowed(settings: ContainerSettings, context: SpecContext) -> None:
    """Check that a fleet may have such containers, whatever was true when its pool was written. Raises EngineError."""
    for refusal in context.policy.refusals(context.fleet or "", settings):
        raise EngineError(refusal.message, hint=refusal.hint)
    check_secret_files(settings, context)


@dataclass(frozen=True, slots=True)
class ActionExecutor:
    """Executes actions for one pool, one after the other. Every action may be repeated."""

    database: Database
    engine: Engine
    context: SpecContext
    clock: Callable[[], datetime]
    inventory: Inventory
    pool: ContainerPool | None
    """None: the pool is gone, or has no containers any more."""
    settings: ContainerSettings | None

    async def execute(self, action: Action) -> None:
        """Execute one action. Raises EngineError, DatabaseUnreachable."""
        name = action.slot if isinstance(action, CreateContainer) else action.name
        if isinstance(action, CreateContainer | StartContainer):
            assert self.settings is not None
            check_allowed(self.settings, self.context)
        log.info("container.action", action=type(action).__name__, container=name, reason=action.reason)
        known = self.inventory.known
        match action:
            case CreateContainer(slot=slot):
                await self._create(slot)
            case StartContainer(name=name):
                await self._start(known[name], self.inventory.seen[name].id)
            case DrainExit(name=name, reason=reason):
                async with write(self.database) as unit:
                    in_container = self.inventory.exits.get(name)
                    await containers.start_removal(unit, known[name], in_container, reason, self.clock())
            case RemoveContainer(name=name, reason=reason, for_good=for_good):
                await self._remove(known[name], reason, for_good=for_good)

    async def _create(self, slot: int) -> None:
        assert self.pool is not None
        assert self.settings is not None
        known = [row for row in self.inventory.of_pool(self.pool.id) if row.slot == slot]
        name = known[0].name if known else container_name(self.pool, slot)
        row = known[0] if known else ContainerRow(name=name, pool_id=self.pool.id, slot=slot, started_at=self.clock())
        # the row first: a container without one would be found by its labels only
        async with self.database.session() as session:
            await containers.save(session, row)
        body = creation_body(self.settings, PoolSlot(self.pool.id, slot, name), self.context)
        await self._start(row, await self.engine.create(name, body))

    async def _start(self, row: ContainerRow, container_id: str) -> None:
        """Start a container with a join token of its own, for one registration of its name.

        It takes the name over, because a container that was made anew has lost its key.
        """
        assert self.pool is not None
        rights = TokenRights(self.pool.fleet_id, Role.EXIT, proxy_name=row.name, takes_over=True)
        async with write(self.database, actor=Actor()) as unit:
            made, token = await join_tokens.create(unit.session, rights, self.clock(), lifetime=TOKEN_LIFETIME)
            detail = {"name": made.name, "proxy": row.name, "uses": 1, "takes_over": True}
            unit.audit(AuditEntry("created", "join-token", str(made.id), self.pool.fleet_id, detail))
        await self.engine.put_file(container_id, TOKEN_PATH, f"{token}\n".encode())
        if self.context.api_ca is not None:
            await self.engine.put_file(container_id, CA_PATH, self.context.api_ca.encode())
        row.started_at = self.clock()
        await self.engine.start(container_id)
        row.state, row.status = ContainerState.RUNNING, ""
        async with self.database.session() as session:
            await containers.save(session, row)

    async def _remove(self, row: ContainerRow, reason: str, *, for_good: bool) -> None:
        """Remove a container, but only one with the installation's label: the name may be another container's by now."""
        found, in_container = self.inventory.seen.get(row.name), self.inventory.exits.get(row.name)
        # not for good: take the exit out at once, instead of after its heartbeat timeout
        if in_container is not None and in_container.state in SERVING and not for_good:
            async with write(self.database) as unit:
                old, new = in_container.state, ExitState.UNREACHABLE
                await exits.change_state(
                    unit, in_container.id, old, new, f"its container is replaced: {reason}", self.clock()
                )
        if found is not None:
            if found.state is ContainerState.RUNNING:
                with suppress(NoSuchContainer):
                    await self.engine.stop(found.id, STOP_S)
            await self.engine.remove(found.id)
        if for_good:
            async with write(self.database) as unit:
                await containers.delete_container(unit, row)
            return
        row.state, row.status = ContainerState.MISSING, ""
        async with self.database.session() as session:
            await containers.save(session, row)
