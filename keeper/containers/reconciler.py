"""The leased worker that reconciles pools with a container engine. The clock is injected.

Every step may be repeated: the worker may end between any two steps, and the next holder of the lease goes on from what it finds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from keeper.containers.commands import execute_command, must_wait
from keeper.containers.container_spec import INSTANCE_LABEL, SpecContext
from keeper.containers.engine import Engine
from keeper.containers.engine_responses import ContainerState
from keeper.containers.errors import EngineError
from keeper.containers.executor import ActionExecutor, check_allowed
from keeper.containers.inventory import Inventory, find_orphans
from keeper.containers.planning import CreateContainer, RemoveContainer, StartContainer, plan
from keeper.containers.scaling import PoolScale, back_off
from keeper.ingest_window import IngestWindow
from keeper.lease import CONTAINER_LEASE_ID, LeaseCheck, hold_lease, run_while_leased
from model.change_feed import CONTAINER_CHANNEL, ChangeFeed
from model.database import Database
from model.repositories import container_commands, containers, heartbeats
from model.stored_containers import ContainerSettings, read_containers
from model.tables import ContainerCommandRow, ContainerPoolRow

Clock = Callable[[], datetime]
INTERVAL_S: Final = 2.0
_KEEP_COMMANDS_FOR: Final = timedelta(hours=1)
log = structlog.get_logger()


async def run_containers(
    database: Database, address: str, context: SpecContext, clock: Clock, *, interval_s: float = INTERVAL_S
) -> None:
    """Run the reconciler whenever this replica holds the container lease, until cancelled."""
    feed = ChangeFeed(database, CONTAINER_CHANNEL, poll_s=interval_s)

    async def reconcile_forever() -> None:
        async with Engine(address) as engine:
            reconciler = ContainerReconciler(database, engine, context, clock)
            while True:
                if not await reconciler.reconcile():
                    await feed.wait()

    async def work(check_lease: LeaseCheck) -> None:
        await run_while_leased(check_lease, reconcile_forever())

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed.run(), name="containers.feed")
        tasks.create_task(hold_lease(database, work, CONTAINER_LEASE_ID), name="containers.lease")


class ContainerReconciler:
    """The work of one holder of the container lease, and its memory between two runs."""

    def __init__(self, database: Database, engine: Engine, context: SpecContext, clock: Clock) -> None:
        self._database = database
        self._engine = engine
        self._context = context
        self._clock = clock
        self._ingest = IngestWindow()
        self._scales: dict[UUID, PoolScale] = {}

    async def reconcile(self) -> bool:
        """Execute pending commands, or else the plans of all pools. Return True to be run again at once.

        Raises DatabaseUnreachable.
        """
        now = self._clock()
        try:
            seen = {each.name: each for each in await self._engine.list({INSTANCE_LABEL: self._context.instance})}
        except EngineError as error:
            log.warning("containers.engine", error=str(error))
            async with self._database.session() as session:
                await containers.record_engine(session, self._engine.address, now, str(error))
            return False
        async with self._database.session() as session:
            await containers.record_engine(session, self._engine.address, now, "")
            self._ingest.observe(now, await heartbeats.ingest_watermark(session))
            known = {row.name: row for row in await containers.all_rows(session)}
            for row in find_orphans(seen.values(), known, now):
                log.info("container.found", container=row.name)
                await containers.save(session, row)
                known[row.name] = row
            pools = {pool.id: pool for pool in await containers.pools(session)}
            inventory = Inventory(pools, known, await containers.exits_in(session), seen)
            await self._save_changed(session, inventory)
            await container_commands.prune(session, before=now - _KEEP_COMMANDS_FOR)
            commands = await container_commands.pending(session)
            statuses = await containers.pool_statuses(session, pools)
        if await self._execute_commands(commands, inventory, now):
            return True
        await self._reconcile_pools(inventory, statuses, now)
        return False

    async def _save_changed(self, session: Any, inventory: Inventory) -> None:
        for row in inventory.known.values():
            found = inventory.seen.get(row.name)
            state = found.state if found else ContainerState.MISSING
            # the engine's sentence about a running container changes all the time: it says how long it has been up
            status = found.status if found and state is not ContainerState.RUNNING else ""
            if (row.state, row.status) != (state, status):
                row.state, row.status = state, status
                await containers.save(session, row)

    async def _execute_commands(
        self, commands: Sequence[ContainerCommandRow], inventory: Inventory, now: datetime
    ) -> bool:
        """Execute commands; of those that go in turn, one for each pool. Return whether any was executed."""
        executed, busy = False, set[UUID]()
        for command in commands:
            row = inventory.known.get(command.container)
            if command.in_turn and row is not None:
                if row.pool_id in busy or must_wait(command, inventory, self._context, now):
                    continue
                busy.add(row.pool_id)
            await execute_command(command, inventory, self._engine, self._database, self._clock())
            executed = True
        return executed

    async def _reconcile_pools(
        self, inventory: Inventory, statuses: dict[UUID, ContainerPoolRow], now: datetime
    ) -> None:
        pool_ids = {*inventory.pools, *(row.pool_id for row in inventory.known.values())}
        self._scales = {pool_id: scale for pool_id, scale in self._scales.items() if pool_id in pool_ids}
        # concurrently: a container that ends slowly must not hold up the replacements of other pools
        outcomes = await asyncio.gather(
            *(self._reconcile_pool(pool_id, inventory, statuses.get(pool_id), now) for pool_id in pool_ids),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _reconcile_pool(
        self, pool_id: UUID, inventory: Inventory, status: ContainerPoolRow | None, now: datetime
    ) -> None:
        pool = inventory.pools.get(pool_id)
        settings = read_containers(pool.containers) if pool else None
        context = self._context.for_fleet(pool.fleet if pool else None)
        slots = [inventory.slot(row, settings, context) for row in inventory.of_pool(pool_id)]
        error = _reason_against(settings, context) if settings else ""
        if error:  # a container that could not be replaced is kept
            slots = [replace(slot, outdated=False) for slot in slots]
        planned = plan(settings, slots, self._scale(pool_id, status), now, self._ingest.since or now)
        scale = planned.scale
        executor = ActionExecutor(self._database, self._engine, context, self._clock, inventory, pool, settings)
        cannot_start = False
        for action in planned.actions:
            starts = isinstance(action, CreateContainer | StartContainer)
            if starts and cannot_start:
                continue
            if isinstance(action, RemoveContainer) and not action.for_good:
                error = f"{action.name}: {action.reason}"
            try:
                await executor.execute(action)
            except EngineError as refused:
                error, cannot_start = str(refused), cannot_start or starts
                log.warning("container.failed", pool=str(pool_id), action=type(action).__name__, error=error)
        if cannot_start:
            scale = back_off(scale, self._clock())
        self._scales[pool_id] = scale
        if pool is not None:
            await self._save_status(pool_id, scale, status, error, now)

    def _scale(self, pool_id: UUID, status: ContainerPoolRow | None) -> PoolScale:
        """Return the scale of a pool as this holder of the lease remembers it, or else as the one before it stored it."""
        if pool_id in self._scales or status is None:
            return self._scales.get(pool_id, PoolScale())
        return PoolScale(wanted=status.wanted, failures=status.failures, retry_at=status.retry_at)

    async def _save_status(
        self, pool_id: UUID, scale: PoolScale, status: ContainerPoolRow | None, error: str, now: datetime
    ) -> None:
        """Store the status of a pool. An error stays until the pool is stable."""
        before = status or ContainerPoolRow(pool_id=pool_id)
        error = error or (before.error if scale.failures else "")
        since = (before.error_since if before.error else now) if error else None
        row = ContainerPoolRow(
            pool_id=pool_id,
            wanted=scale.wanted,
            failures=scale.failures,
            retry_at=scale.retry_at,
            error=error,
            error_since=since,
        )
        if status is None or row.model_dump() != status.model_dump():
            async with self._database.session() as session:
                await containers.save_pool_status(session, row)


def _reason_against(settings: ContainerSettings, context: SpecContext) -> str:
    """Return the reason why a pool may have no such containers; empty if it may."""
    try:
        check_allowed(settings, context)
    except EngineError as refused:
        return str(refused)
    return ""
