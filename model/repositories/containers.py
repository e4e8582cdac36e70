"""Containers of exits, the status of each pool's containers, and the engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import and_, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.exit_states import TAKEN_OUT, ExitState
from model.repositories import exits
from model.tables import ContainerEngineRow, ContainerPoolRow, ContainerRow, ExitRow, FleetRow, HeartbeatRow, PoolRow
from model.unit_of_work import UnitOfWork

REMOVED_WITH_POOL = "its pool has no containers any more"


@dataclass(frozen=True, slots=True)
class ContainerPool:
    """A pool whose exits run in containers."""

    id: UUID
    name: str
    fleet_id: UUID
    fleet: str
    containers: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ContainerExit:
    """The exit in a container, with its last heartbeat."""

    id: UUID
    state: ExitState
    state_since: datetime
    heard_at: datetime | None
    open_requests: int
    endpoint: str | None
    """The address that gateways dial; None: not known yet."""


async def pools(session: AsyncSession) -> Sequence[ContainerPool]:
    """Return the pools whose exits run in containers."""
    query = select(
        col(PoolRow.id), col(PoolRow.name), col(PoolRow.fleet_id), col(FleetRow.name), col(PoolRow.containers)
    ).join(FleetRow, col(FleetRow.id) == col(PoolRow.fleet_id))
    return [ContainerPool(*row) for row in (await session.execute(query.where(col(PoolRow.containers).is_not(None))))]


async def all_rows(session: AsyncSession) -> Sequence[ContainerRow]:
    """Return all containers, by slot."""
    return (await session.execute(select(ContainerRow).order_by(col(ContainerRow.slot)))).scalars().all()


async def of_pools(session: AsyncSession, pool_ids: Iterable[UUID]) -> dict[UUID, list[ContainerRow]]:
    """Return the containers of some pools, by pool and in the order of their slots."""
    query = select(ContainerRow).where(col(ContainerRow.pool_id).in_([*pool_ids])).order_by(col(ContainerRow.slot))
    found: dict[UUID, list[ContainerRow]] = {}
    for row in (await session.execute(query)).scalars():
        found.setdefault(row.pool_id, []).append(row)
    return found


async def find(session: AsyncSession, pool_id: UUID, name: str) -> ContainerRow | None:
    """Find a container of a pool by its name."""
    row = await session.get(ContainerRow, name)
    return row if row is not None and row.pool_id == pool_id else None


async def exits_in(session: AsyncSession, names: Sequence[str] | None = None) -> dict[str, ContainerExit]:
    """Return the exits in some containers (None: in all), by the name that both have."""
    query = (
        select(
            col(ExitRow.name),
            col(ExitRow.id),
            col(ExitRow.state),
            col(ExitRow.state_since),
            col(HeartbeatRow.heard_at),
            col(HeartbeatRow.open_requests),
            col(ExitRow.endpoint),
        )
        .join(
            ContainerRow,
            and_(col(ContainerRow.name) == col(ExitRow.name), col(ContainerRow.pool_id) == col(ExitRow.pool_id)),
        )
        .outerjoin(HeartbeatRow, col(HeartbeatRow.proxy_id) == col(ExitRow.id))
    )
    if names is not None:
        query = query.where(col(ContainerRow.name).in_(names))
    return {
        name: ContainerExit(exit_id, ExitState(state), since, heard_at, open_requests or 0, endpoint)
        for name, exit_id, state, since, heard_at, open_requests, endpoint in (await session.execute(query)).all()
    }


async def save(session: AsyncSession, row: ContainerRow) -> None:
    """Insert or update a container."""
    values = row.model_dump()
    statement = insert(ContainerRow).values(values)
    await session.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))


async def start_removal(
    unit: UnitOfWork, row: ContainerRow, exit_: ContainerExit | None, reason: str, now: datetime
) -> None:
    """Begin to remove a container for good: drain its exit, unless that is taken out already, and record the time."""
    if exit_ is not None and exit_.state not in TAKEN_OUT:
        await exits.change_state(unit, exit_.id, exit_.state, ExitState.DRAINING, reason, now)
    row.leaving_since = row.leaving_since or now
    await save(unit.session, row)


async def start_removal_of_pool(unit: UnitOfWork, pool_id: UUID, now: datetime) -> None:
    """Begin to remove all containers of a pool for good."""
    exit_of = await exits_in(unit.session)
    for row in (await of_pools(unit.session, [pool_id])).get(pool_id, ()):
        if row.leaving_since is None:
            await start_removal(unit, row, exit_of.get(row.name), REMOVED_WITH_POOL, now)


async def delete_container(unit: UnitOfWork, row: ContainerRow) -> None:
    """Delete a container that was removed for good, and deregister its exit."""
    query = select(ExitRow, col(PoolRow.fleet_id)).join(PoolRow, col(PoolRow.id) == col(ExitRow.pool_id))
    query = query.where(col(ExitRow.pool_id) == row.pool_id, col(ExitRow.name) == row.name)
    for exit_row, fleet_id in (await unit.session.execute(query)).all():
        await exits.deregister(unit, exit_row, fleet_id)
    await unit.session.execute(delete(ContainerRow).where(col(ContainerRow.name) == row.name))


async def pool_statuses(session: AsyncSession, pool_ids: Iterable[UUID]) -> dict[UUID, ContainerPoolRow]:
    """Return the status of some pools' containers, by pool."""
    query = select(ContainerPoolRow).where(col(ContainerPoolRow.pool_id).in_([*pool_ids]))
    return {row.pool_id: row for row in (await session.execute(query)).scalars()}


async def save_pool_status(session: AsyncSession, row: ContainerPoolRow) -> None:
    """Store the status of a pool's containers. It does nothing when the pool is gone."""
    if await session.get(PoolRow, row.pool_id, with_for_update={"key_share": True, "read": True}) is None:
        return
    values = row.model_dump()
    await session.execute(
        insert(ContainerPoolRow).values(values).on_conflict_do_update(index_elements=["pool_id"], set_=values)
    )


async def record_engine(session: AsyncSession, address: str, now: datetime, error: str) -> None:
    """Record that the container engine was queried, with its error (empty: none)."""
    known = await session.get(ContainerEngineRow, 1)
    if known is None:
        known = ContainerEngineRow(address=address, looked_at=now)
        session.add(known)
    if known.error != error:
        known.error_since = now if error else None
    known.address, known.looked_at, known.error = address, now, error


async def engine(session: AsyncSession) -> ContainerEngineRow | None:
    """Return the engine as it was recorded last; None: no replica has had one."""
    return await session.get(ContainerEngineRow, 1)
