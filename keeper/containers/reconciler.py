"""The leased worker that looks after containers. The clock is injected.

Whatever it does can be done again: it may end between any two steps, and whoever holds the lease next sees what there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from keeper.containers.commands import execute_command, must_wait
from keeper.containers.container_spec import INSTANCE_LABEL, SpecContext
from keeper.containers.engine import Engine
from keeper.containers.engine_responses import ContainerStatus
from keeper.containers.errors import EngineError
from keeper.containers.executor import ActionExecutor
from keeper.containers.inventory import Inventory, find_orphans
from keeper.containers.planning import CreateContainer, RemoveContainer, StartContainer, plan
from keeper.containers.scaling import PoolScale, back_off
from keeper.ingest_window import IngestWindow
from keeper.lease import CONTAINER_LEASE_ID, LeaseCheck, hold_lease
from model.change_feed import CONTAINER_CHANNEL, ChangeFeed
from model.database import Database
from model.repositories import container_commands, containers, heartbeats
from model.stored_containers import read_containers
from model.tables import ContainerCommandRow, ContainerPoolRow

Clock = Callable[[], datetime]
LOOK_EVERY_S: Final = 2.0
_ALIVE_EVERY_S: Final = 1.0
_KEEP_WISHES_FOR: Final = timedelta(hours=1)
log = structlog.get_logger()


async def run_containers(
    database: Database, address: str, ground: SpecContext, clock: Clock, *, look_every_s: float = LOOK_EVERY_S
) -> None:
    """Look after containers whenever this replica holds the lease of those that have an engine, until cancelled."""
    feed = ChangeFeed(database, CONTAINER_CHANNEL, poll_s=look_every_s)

    async def look_on() -> None:
        async with Engine(address) as engine:
            keeper = ContainerReconciler(database, engine, ground, clock)
            while True:
                if not await keeper.look():
                    await feed.wait()

    async def work(alive: LeaseCheck) -> None:
        await run_while_leased(alive, look_on())

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed.run(), name="containers.feed")
        tasks.create_task(hold_lease(database, work, CONTAINER_LEASE_ID), name="containers.lease")


async def run_while_leased(alive: LeaseCheck, work: Coroutine[Any, Any, None]) -> None:
    """Do `work` until the lease is lost, and not a step longer: what it waits for is given up. Raises what either raises."""
    working = asyncio.create_task(work, name="containers.work")
    watching = asyncio.create_task(_watch(alive), name="containers.watch")
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        for task in (watching, working):
            if task.done():
                task.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _watch(alive: LeaseCheck) -> None:
    while True:
        await alive()
        await asyncio.sleep(_ALIVE_EVERY_S)


class ContainerReconciler:
    """What one holder of the lease remembers between two looks."""

    def __init__(self, database: Database, engine: Engine, ground: SpecContext, clock: Clock) -> None:
        self._database = database
        self._engine = engine
        self._ground = ground
        self._clock = clock
        self._hearing = IngestWindow()
        self._scales: dict[UUID, PoolScale] = {}

    async def look(self) -> bool:
        """Look once, and do what is due; says whether to look again at once. Raises DatabaseUnreachable."""
        now = self._clock()
        try:
            seen = {each.name: each for each in await self._engine.list({INSTANCE_LABEL: self._ground.instance})}
        except EngineError as error:
            log.warning("containers.engine", error=str(error))
            async with self._database.session() as session:
                await containers.record_engine(session, self._engine.address, now, str(error))
            return False
        async with self._database.session() as session:
            await containers.record_engine(session, self._engine.address, now, "")
            self._hearing.look(now, await heartbeats.ingest_watermark(session))
            known = {row.name: row for row in await containers.all_rows(session)}
            for row in find_orphans(seen.values(), known, now):
                log.info("container.found", container=row.name)
                await containers.save(session, row)
                known[row.name] = row
            pools = {pool.id: pool for pool in await containers.pools(session)}
            sight = Inventory(pools, known, await containers.exits_in(session), seen)
            await self._keep_lives(session, sight)
            await container_commands.prune(session, before=now - _KEEP_WISHES_FOR)
            wishes = await container_commands.pending(session)
            standings = await containers.pool_statuses(session, pools)
        if await self._grant(wishes, sight, now):
            return True
        await self._tend_all(sight, standings, now)
        return False

    async def _keep_lives(self, session: Any, sight: Inventory) -> None:
        for row in sight.known.values():
            found = sight.seen.get(row.name)
            life = found.life if found else ContainerStatus.MISSING
            # how long it has been up is no news
            status = found.status if found and life is not ContainerStatus.RUNNING else ""
            if (row.life, row.status) != (life, status):
                row.life, row.status = life, status
                await containers.save(session, row)

    async def _grant(self, wishes: Sequence[ContainerCommandRow], sight: Inventory, now: datetime) -> bool:
        """Carry out what is wished, of what goes in turn one of a pool; says whether anything was."""
        granted, busy = False, set[UUID]()
        for wish in wishes:
            row = sight.known.get(wish.container)
            if wish.in_turn and row is not None:
                if row.pool_id in busy or must_wait(wish, sight, self._ground, now):
                    continue
                busy.add(row.pool_id)
            await execute_command(wish, sight, self._engine, self._database, self._clock())
            granted = True
        return granted

    async def _tend_all(self, sight: Inventory, standings: dict[UUID, ContainerPoolRow], now: datetime) -> None:
        pool_ids = {*sight.pools, *(row.pool_id for row in sight.known.values())}
        self._scales = {pool_id: scale for pool_id, scale in self._scales.items() if pool_id in pool_ids}
        # beside each other, for one that takes long to end must not hold up the others' replacements
        outcomes = await asyncio.gather(
            *(self._tend(pool_id, sight, standings.get(pool_id), now) for pool_id in pool_ids), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _tend(self, pool_id: UUID, sight: Inventory, standing: ContainerPoolRow | None, now: datetime) -> None:
        pool = sight.pools.get(pool_id)
        wish = read_containers(pool.containers) if pool else None
        slots = [sight.slot(row, wish, self._ground) for row in sight.of_pool(pool_id)]
        planned = plan(wish, slots, self._scale(pool_id, standing), now, self._hearing.since or now)
        scale, error = planned.scale, ""
        hand = ActionExecutor(self._database, self._engine, self._ground, self._clock, sight, pool, wish)
        stuck = False
        for action in planned.actions:
            making = isinstance(action, CreateContainer | StartContainer)
            if making and stuck:
                continue
            if isinstance(action, RemoveContainer) and not action.for_good:
                error = f"{action.name}: {action.reason}"
            try:
                await hand.do(action)
            except EngineError as refused:
                error, stuck = str(refused), stuck or making
                log.warning("container.failed", pool=str(pool_id), action=type(action).__name__, error=error)
        if stuck:
            scale = back_off(scale, self._clock())
        self._scales[pool_id] = scale
        if pool is not None:
            await self._record(pool_id, scale, standing, error, now)

    def _scale(self, pool_id: UUID, standing: ContainerPoolRow | None) -> PoolScale:
        """What is remembered of a pool: by this holder of the lease, or by the one before it."""
        if pool_id in self._scales or standing is None:
            return self._scales.get(pool_id, PoolScale())
        return PoolScale(wanted=standing.wanted, failures=standing.failures, retry_at=standing.retry_at)

    async def _record(
        self, pool_id: UUID, scale: PoolScale, standing: ContainerPoolRow | None, error: str, now: datetime
    ) -> None:
        """Keep how it stands; an error stays until the pool has settled."""
        before = standing or ContainerPoolRow(pool_id=pool_id)
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
        if standing is None or row.model_dump() != standing.model_dump():
            async with self._database.session() as session:
                await containers.save_pool_status(session, row)
