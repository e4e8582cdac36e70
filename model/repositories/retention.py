"""What the keeper writes: states of exits, resolved names, and the end of old rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import Float, and_, case, cast, delete, false, func, not_, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.repositories import declared, rollout
from model.repositories.heartbeats import ExitReport
from model.repositories.logins import KEEP_THROTTLES_FOR
from model.tables import (
    AcceptedRow,
    CanaryRow,
    ChangeRow,
    ConfigRequestRow,
    ExitRow,
    HeartbeatRow,
    JoinTokenRow,
    PoolRow,
    ProxyRow,
    RejectionRow,
    ReplicaRow,
    RolloutRow,
    SessionRow,
    SyncRow,
    ThrottleRow,
)
from model.unit_of_work import UnitOfWork
from model.world import TAKEN_OUT, ExitState, Kind, ResourceKey, WeighBy

GB: Final = 1_000_000_000


async def change_state(
    unit: UnitOfWork, exit_id: UUID, old: ExitState, new: ExitState, reason: str, now: datetime
) -> bool:
    """Move an exit from one state to another; False when it is not in the old one any more."""
    statement = (
        update(ExitRow)
        .where(col(ExitRow.id) == exit_id, col(ExitRow.state) == old)
        .values(state=new, state_reason=reason, state_since=now)
        .returning(col(ExitRow.name), declared.fleet_of_exit())
    )
    changed = (await unit.session.execute(statement)).one_or_none()
    if changed is None:
        return False
    name, fleet_id = changed
    changes = {"state": [old, new], "state_reason": [None, reason]}
    unit.touch(Kind.EXIT, exit_id, "changed", fleet_id=fleet_id, detail={"name": name, "changes": changes})
    return True


async def change_reason(unit: UnitOfWork, standing: ExitReport, reason: str) -> None:
    """Say another reason for the state that an exit is in, unless somebody else has said something meanwhile."""
    statement = (
        update(ExitRow)
        .where(
            col(ExitRow.id) == standing.exit_id,
            col(ExitRow.state) == standing.state,
            col(ExitRow.state_reason) == standing.reason,
        )
        .values(state_reason=reason)
        .returning(col(ExitRow.name), declared.fleet_of_exit())
    )
    changed = (await unit.session.execute(statement)).one_or_none()
    if changed is not None:
        name, fleet_id = changed
        detail = {"name": name, "changes": {"state_reason": [standing.reason, reason]}}
        unit.touch(Kind.EXIT, standing.exit_id, "changed", fleet_id=fleet_id, detail=detail)


class TrafficCap(NamedTuple):
    """An exit that has carried what it may in a month, or one that was taken out for that and may carry again."""

    exit_id: UUID
    state: ExitState
    capped: bool
    monthly_cap_gb: float | None


async def caps_in_question(session: AsyncSession, now: datetime) -> Sequence[TrafficCap]:
    """Exits that their monthly cap takes out now, and those that it lets back in."""
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
    """Say whether its cap is what takes an exit out."""
    await session.execute(update(ExitRow).where(col(ExitRow.id) == exit_id).values(capped=capped))


class WeighedExit(NamedTuple):
    """An exit of a pool that weighs, with what its weight is found by. `rtt_ms` is None where nobody measures."""

    exit_id: UUID
    pool_id: UUID
    weigh_by: WeighBy
    state: ExitState
    share: int
    cost: float | None
    rtt_ms: float | None


async def candidates(session: AsyncSession) -> Sequence[WeighedExit]:
    """The exits of all pools that weigh."""
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


async def stray_shares(session: AsyncSession) -> Sequence[UUID]:
    """Exits that have a share still, though their pool does not weigh any more."""
    weigh_by = PoolRow.__table__.c.balancing["weigh_by"].astext  # type: ignore[attr-defined]
    query = (
        select(col(ExitRow.id))
        .join(PoolRow, col(PoolRow.id) == col(ExitRow.pool_id))
        .where(weigh_by.is_(None), col(ExitRow.share) != 1)
    )
    return (await session.execute(query)).scalars().all()


async def set_share(unit: UnitOfWork, exit_id: UUID, old: int | None, new: int) -> None:
    """Give an exit another share."""
    statement = (
        update(ExitRow)
        .where(col(ExitRow.id) == exit_id, col(ExitRow.share) != new)
        .values(share=new)
        .returning(col(ExitRow.name), declared.fleet_of_exit())
    )
    changed = (await unit.session.execute(statement)).one_or_none()
    if changed is not None:
        name, fleet_id = changed
        unit.touch(
            Kind.EXIT, exit_id, "changed", fleet_id=fleet_id, detail={"name": name, "changes": {"share": [old, new]}}
        )


async def named_exits(session: AsyncSession) -> Sequence[tuple[UUID, str, str | None]]:
    """Exits that are declared by a host name: id, address, and the endpoint that it resolved to."""
    query = select(col(ExitRow.id), col(ExitRow.address), col(ExitRow.endpoint)).where(
        col(ExitRow.endpoint).is_distinct_from(col(ExitRow.address))
    )
    return [(row.id, row.address, row.endpoint) for row in (await session.execute(query)).all()]


async def set_endpoint(unit: UnitOfWork, exit_id: UUID, address: str, endpoint: str) -> None:
    """Keep what an exit's host name resolved to, unless its address changed meanwhile."""
    statement = (
        update(ExitRow)
        .where(col(ExitRow.id) == exit_id, col(ExitRow.address) == address)
        .values(endpoint=endpoint)
        .returning(col(ExitRow.name), declared.fleet_of_exit())
    )
    changed = (await unit.session.execute(statement)).one_or_none()
    if changed is not None:
        name, fleet_id = changed
        detail = {"name": name, "changes": {"endpoint": [None, endpoint]}}
        unit.touch(Kind.EXIT, exit_id, "changed", fleet_id=fleet_id, detail=detail)


async def prune(session: AsyncSession, *, before: datetime, keep: int) -> None:
    """Forget changes from before a time, but for the newest `keep`, and join tokens that expired then.

    Revisions are forgotten whole and in order, whatever the clocks of their writers said: what is left has no hole.
    """
    revision = col(ChangeRow.revision)
    newest = select(revision).order_by(col(ChangeRow.id).desc()).offset(keep - 1).limit(1).scalar_subquery()
    young = select(func.min(revision)).where(col(ChangeRow.at) >= before).scalar_subquery()
    await session.execute(delete(ChangeRow).where(revision < newest, revision < func.coalesce(young, newest)))
    await session.execute(delete(JoinTokenRow).where(col(JoinTokenRow.expires_at) < before))
    await session.execute(delete(ConfigRequestRow).where(col(ConfigRequestRow.asked_at) < before))


async def prune_logins(session: AsyncSession, now: datetime) -> None:
    """Forget sessions that expired, and failed logins from long ago."""
    await session.execute(delete(SessionRow).where(col(SessionRow.expires_at) < now))
    await session.execute(delete(ThrottleRow).where(col(ThrottleRow.at) < now - KEEP_THROTTLES_FOR))


async def forget_groups(unit: UnitOfWork, *, before: datetime) -> None:
    """Forget the rollout state of groups whose fleet, pool or exit is gone.

    And what was rejected before a time, in groups where nothing is held back now: nobody wants that any more.
    """
    session = unit.session
    owners = text(
        "SELECT CAST(id AS text) FROM fleet UNION ALL SELECT CAST(id AS text) FROM pool UNION ALL SELECT CAST(id AS text) FROM exit"
    )
    known = set((await session.execute(owners)).scalars())
    for table in (AcceptedRow, RejectionRow, RolloutRow, CanaryRow):
        groups = (await session.execute(select(col(table.group)).distinct())).scalars().all()
        gone = [group for group in groups if group.split("/")[1] not in known]
        await _forget(unit, table, col(table.group).in_(gone))
    held_back = select(col(RolloutRow.group))
    await _forget(unit, RejectionRow, col(RejectionRow.at) < before, col(RejectionRow.group).not_in(held_back))
    proxies = select(col(ProxyRow.id))
    await _forget(unit, CanaryRow, col(CanaryRow.proxy_id).not_in(proxies))


async def _forget(
    unit: UnitOfWork, table: type[AcceptedRow | RejectionRow | RolloutRow | CanaryRow], *which: Any
) -> None:
    for row in (await unit.session.execute(delete(table).where(*which).returning(table))).scalars():
        if isinstance(row, AcceptedRow | RejectionRow):
            key = ResourceKey(row.group, row.type_url, row.name)
            if isinstance(row, AcceptedRow):
                unit.touch(Kind.ACCEPTED, key)
            else:
                unit.touch(Kind.REJECTION, (key, row.version))


async def bury_replicas(session: AsyncSession) -> Sequence[UUID]:
    """Take its streams and its canaries from each replica of the xDS server that did not say lately that it lives."""
    dead = delete(ReplicaRow).where(~rollout.lives()).returning(col(ReplicaRow.id))
    buried = (await session.execute(dead)).scalars().all()
    if buried:
        await session.execute(update(SyncRow).where(col(SyncRow.replica).in_(buried)).values(replica=None))
        await session.execute(delete(CanaryRow).where(col(CanaryRow.replica).in_(buried)))
    return buried
