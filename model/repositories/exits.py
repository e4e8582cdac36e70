"""Writes to exits: their states, shares, traffic caps and resolved addresses, and their removal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import Float, and_, case, cast, false, func, not_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.entities import WeighBy
from model.exit_states import TAKEN_OUT, ExitState
from model.repositories import declared, heartbeats, rollout, sync
from model.repositories.exit_reports import ExitReport
from model.tables import ExitRow, HeartbeatRow, PoolRow
from model.unit_of_work import UnitOfWork
from model.world import Kind

GB: Final = 1_000_000_000


async def deregister(unit: UnitOfWork, row: ExitRow, fleet_id: UUID) -> None:
    """Remove an exit with its proxy, certificates and last heartbeat."""
    await declared.remove(unit, row, fleet_id)
    proxy = await declared.find_proxy(unit.session, row.id)
    if proxy is not None:
        await declared.remove(unit, proxy)
    await heartbeats.forget(unit.session, row.id)
    await sync.forget(unit.session, row.id)
    await rollout.forget_rejections_by(unit, row.id)


async def change_state(
    unit: UnitOfWork, exit_id: UUID, old: ExitState, new: ExitState, reason: str, now: datetime
) -> bool:
    """Move an exit from one state to another. Return False when it has left the old state meanwhile."""
    statement = update(ExitRow).where(col(ExitRow.id) == exit_id, col(ExitRow.state) == old)
    statement = statement.values(state=new, state_reason=reason, state_since=now)
    return await _update(unit, exit_id, statement, {"state": [old, new], "state_reason": [None, reason]})


async def change_reason(unit: UnitOfWork, report: ExitReport, reason: str) -> None:
    """Store another reason for the present state of an exit, unless its state or reason changed meanwhile."""
    statement = update(ExitRow).where(
        col(ExitRow.id) == report.exit_id,
        col(ExitRow.state) == report.state,
        col(ExitRow.state_reason) == report.reason,
    )
    changes = {"state_reason": [report.reason, reason]}
    await _update(unit, report.exit_id, statement.values(state_reason=reason), changes)


async def _update(unit: UnitOfWork, exit_id: UUID, statement: Any, changes: dict[str, Any]) -> bool:
    """Execute an update of one exit and record its changes. Return False when it matched no row."""
    returning = statement.returning(col(ExitRow.name), declared.fleet_of_exit())
    changed = (await unit.session.execute(returning)).one_or_none()
    if changed is None:
        return False
    name, fleet_id = changed
    unit.touch(Kind.EXIT, exit_id, "changed", fleet_id=fleet_id, detail={"name": name, "changes": changes})
    return True


# -- monthly traffic caps ----------------------------------------------------------------------------------------------


class TrafficCap(NamedTuple):
    """An exit that has reached its monthly cap, or one that was drained for that and may serve again."""

    exit_id: UUID
    state: ExitState
    capped: bool
    """It is drained because of its cap."""
    monthly_cap_gb: float | None


async def find_cap_changes(session: AsyncSession, now: datetime) -> Sequence[TrafficCap]:
    """Return the exits that their monthly cap takes out now, and those that it no longer takes out."""
    this_month = func.date_trunc("month", col(HeartbeatRow.heard_at), "UTC") == func.date_trunc("month", now, "UTC")
    carried = case((this_month, col(HeartbeatRow.month_bytes)), else_=0)
    full = func.coalesce(carried >= col(ExitRow.monthly_cap_gb) * GB, false())
    query = (
        select(col(ExitRow.id), col(ExitRow.state), col(ExitRow.capped), col(ExitRow.monthly_cap_gb))
        .join(HeartbeatRow, col(HeartbeatRow.proxy_id) == col(ExitRow.id))
        .where(
            or_(
                and_(col(ExitRow.capped), not_(full)),
                and_(col(ExitRow.monthly_cap_gb).is_not(None), full, col(ExitRow.state).not_in(TAKEN_OUT)),
            )
        )
    )
    found = (await session.execute(query)).all()
    return [TrafficCap(row.id, ExitState(row.state), row.capped, row.monthly_cap_gb) for row in found]


async def set_capped(session: AsyncSession, exit_id: UUID, *, capped: bool) -> None:
    """Store whether an exit is drained because of its monthly cap."""
    await session.execute(update(ExitRow).where(col(ExitRow.id) == exit_id).values(capped=capped))


# -- shares of pools that weigh their exits ----------------------------------------------------------------------------


class WeighedExit(NamedTuple):
    """An exit of a pool with `weigh_by`, and the inputs of its weight. `rtt_ms` is None for an exit without a measurement."""

    exit_id: UUID
    pool_id: UUID
    weigh_by: WeighBy
    state: ExitState
    share: int
    cost: float | None
    rtt_ms: float | None


async def find_weighed(session: AsyncSession) -> Sequence[WeighedExit]:
    """Return the exits of all pools with `weigh_by`."""
    weigh_by = PoolRow.__table__.c.balancing["weigh_by"].astext  # type: ignore[attr-defined]
    rtt = HeartbeatRow.__table__.c.observation["rtt_ms"].astext  # type: ignore[attr-defined]
    query = (
        select(
            col(ExitRow.id),
            col(ExitRow.pool_id),
            weigh_by,
            col(ExitRow.state),
            col(ExitRow.share),
            col(ExitRow.cost),
            cast(rtt, Float),
        )
        .join(PoolRow, col(PoolRow.id) == col(ExitRow.pool_id))
        .outerjoin(HeartbeatRow, col(HeartbeatRow.proxy_id) == col(ExitRow.id))
        .where(weigh_by.is_not(None))
    )
    return [
        WeighedExit(exit_id, pool_id, WeighBy(by), ExitState(state), share, cost, rtt_ms)
        for exit_id, pool_id, by, state, share, cost, rtt_ms in (await session.execute(query)).all()
    ]


async def find_stale_shares(session: AsyncSession) -> Sequence[UUID]:
    """Return the exits whose share is not 1 although their pool has no `weigh_by` any more."""
    weigh_by = PoolRow.__table__.c.balancing["weigh_by"].astext  # type: ignore[attr-defined]
    query = (
        select(col(ExitRow.id))
        .join(PoolRow, col(PoolRow.id) == col(ExitRow.pool_id))
        .where(weigh_by.is_(None), col(ExitRow.share) != 1)
    )
    return (await session.execute(query)).scalars().all()


async def set_share(unit: UnitOfWork, exit_id: UUID, old: int | None, new: int) -> None:
    """Give an exit another share. An exit that has it already is not touched."""
    statement = update(ExitRow).where(col(ExitRow.id) == exit_id, col(ExitRow.share) != new).values(share=new)
    await _update(unit, exit_id, statement, {"share": [old, new]})


# -- exits that are declared by host name ------------------------------------------------------------------------------


async def find_host_names(session: AsyncSession) -> Sequence[tuple[UUID, str, str | None]]:
    """Return the exits that are declared by a host name: id, address, and the endpoint that it resolved to."""
    query = select(col(ExitRow.id), col(ExitRow.address), col(ExitRow.endpoint)).where(
        col(ExitRow.endpoint).is_distinct_from(col(ExitRow.address))
    )
    return [(row.id, row.address, row.endpoint) for row in (await session.execute(query)).all()]


async def set_endpoint(unit: UnitOfWork, exit_id: UUID, address: str, endpoint: str) -> None:
    """Store the endpoint that an exit's host name resolved to, unless its address changed meanwhile."""
    statement = update(ExitRow).where(col(ExitRow.id) == exit_id, col(ExitRow.address) == address)
    await _update(unit, exit_id, statement.values(endpoint=endpoint), {"endpoint": [None, endpoint]})
