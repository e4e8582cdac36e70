"""Exits with their last heartbeats: those that the keeper has to look at, found by PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Float,
    Select,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.entities import RESILIENCE, Resilience
from model.exit_states import (
    NEEDS_NEW_HEARTBEAT,
    RECOVERY_FACTOR,
    STATE_BY_CONDITION,
    TAKEN_OUT,
    ExitCondition,
    ExitState,
)
from model.repositories.heartbeats import Heartbeat
from model.stored_pools import read_resilience
from model.tables import ExitRow, HeartbeatRow, PoolRow, ProxyRow

_REPLACED = ProxyRow.__table__.c.replaced_certificates  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class ExitReport:
    """An exit's state and its last heartbeat; `heartbeat` is None for an exit that never sent one."""

    exit_id: UUID
    state: ExitState
    state_since: datetime
    heartbeat: Heartbeat | None
    country: str
    """The country of its pool, where its traffic should come out."""
    resilience: Resilience = RESILIENCE
    """Its pool's."""
    capacity: int | None = None
    """The number of requests that it should carry at once; None: no limit."""
    reason: str = ""
    """The stored reason for its state."""
    allow_unverified: bool = True
    """Its pool's."""

    @property
    def is_new(self) -> bool:
        """Tell whether the heartbeat is newer than the present state."""
        return self.heartbeat is not None and self.heartbeat.heard_at > self.state_since


async def find_moving(
    session: AsyncSession, unreachable_before: datetime | None, lost_before: datetime | None
) -> Sequence[ExitReport]:
    """Return the exits that move to another state by the rules of `model.exit_states`.

    An exit whose last heartbeat is from before `unreachable_before` or `lost_before` has been silent for too long. None:
    silence counts against no exit.
    """
    return await _read(session, _moving(), unreachable_before=unreachable_before, lost_before=lost_before)


async def find_unwell(session: AsyncSession) -> Sequence[ExitReport]:
    """Return the exits that are not healthy and sent a heartbeat in their present state: their reason may have changed."""
    return await _read(session, _unwell())


async def _read(session: AsyncSession, query: Select[Any], **times: datetime | None) -> Sequence[ExitReport]:
    rows: Iterable[Any] = (await session.execute(query, times)).all()
    return [
        ExitReport(
            exit_id,
            ExitState(state),
            since,
            Heartbeat(*heartbeat),
            country,
            read_resilience(resilience),
            capacity,
            reason,
            allow_unverified,
        )
        for exit_id, state, since, reason, country, resilience, allow_unverified, capacity, *heartbeat in rows
    ]


@cache  # the keeper reads every second, and building the query takes as long as executing it
def _moving() -> Select[Any]:
    """The query of `find_moving`. A time of NULL is in no condition that is met."""
    conditions = _conditions()
    wanted_state = case(
        *((conditions[condition], literal(state)) for condition, state in STATE_BY_CONDITION.items()),
        else_=literal(ExitState.HEALTHY),
    )
    wanted = select(wanted_state.label("state")).correlate(ExitRow, HeartbeatRow, PoolRow).lateral("wanted")
    return _reports().where(_may_move(wanted.c.state)).join(wanted, true())


@cache
def _unwell() -> Select[Any]:
    unwell = (
        ExitState.DEGRADED,
        ExitState.VERIFYING,
        ExitState.UNVERIFIED,
        ExitState.LEAKING,
        ExitState.UNREACHABLE,
    )
    return _reports().where(and_(col(ExitRow.state).in_(unwell), _is_new()))


def _reports() -> Select[Any]:
    exit_columns = (
        col(ExitRow.id),
        col(ExitRow.state),
        col(ExitRow.state_since),
        col(ExitRow.state_reason),
        col(PoolRow.country),
        col(PoolRow.resilience),
        col(PoolRow.allow_unverified),
        col(ExitRow.capacity),
    )
    heartbeat_columns = [HeartbeatRow.__table__.c[each.name] for each in fields(Heartbeat)]  # type: ignore[attr-defined]
    return (
        select(*exit_columns, *heartbeat_columns)
        .join_from(ExitRow, HeartbeatRow, col(HeartbeatRow.proxy_id) == col(ExitRow.id))
        .join(PoolRow, col(PoolRow.id) == col(ExitRow.pool_id))
        .join(ProxyRow, col(ProxyRow.id) == col(ExitRow.id))
        # one that the former agent of a name signed says nothing about the exit, however late it was stored
        .where(not_(func.coalesce(func.jsonb_exists(_REPLACED, col(HeartbeatRow.certificate)), false())))
    )


def _conditions() -> Mapping[ExitCondition, ColumnElement[bool]]:
    """Each condition in SQL. NULL counts as not met."""
    heard_at = HeartbeatRow.__table__.c.heard_at  # type: ignore[attr-defined]
    seen = HeartbeatRow.__table__.c.observation  # type: ignore[attr-defined]
    leak, country = func.coalesce(seen["leak"].astext, ""), seen["country"].astext
    max_rtt_ms = cast(PoolRow.__table__.c.resilience["degraded_above_ms"].astext, Float)  # type: ignore[attr-defined]
    factor = case((col(ExitRow.state) == ExitState.DEGRADED, RECOVERY_FACTOR), else_=1.0)
    return {
        ExitCondition.LONG_SILENT: heard_at < bindparam("lost_before", type_=heard_at.type),
        ExitCondition.STOPPING: col(HeartbeatRow.stopping),
        ExitCondition.ENVOY_DOWN: and_(not_(col(HeartbeatRow.envoy_up)), leak == ""),
        ExitCondition.TUNNEL_DOWN: not_(col(HeartbeatRow.tunnel_up)),
        ExitCondition.SILENT: heard_at < bindparam("unreachable_before", type_=heard_at.type),
        ExitCondition.LEAKS: leak != "",
        ExitCondition.NOT_OBSERVED: and_(seen.is_(None), not_(col(PoolRow.allow_unverified))),
        ExitCondition.COUNTRY_UNKNOWN: and_(seen.is_not(None), country.is_(None)),
        ExitCondition.WRONG_COUNTRY: country != col(PoolRow.country),
        ExitCondition.SOURCES_DISAGREE: seen["conflict"].astext != "",
        ExitCondition.SLOW: cast(seen["rtt_ms"].astext, Float) > max_rtt_ms * factor,
        ExitCondition.FULL: col(HeartbeatRow.open_requests) >= col(ExitRow.capacity) * factor,
    }


def _may_move(wanted: ColumnElement[str]) -> ColumnElement[bool]:
    """`model.exit_states.may_move` in SQL."""
    present = col(ExitRow.state)
    too_early = or_(*(and_(present == state, wanted.in_(states)) for state, states in NEEDS_NEW_HEARTBEAT.items()))
    return and_(present.not_in(TAKEN_OUT), wanted != present, or_(_is_new(), not_(too_early)))


def _is_new() -> ColumnElement[bool]:
    return col(HeartbeatRow.heard_at) > col(ExitRow.state_since)
