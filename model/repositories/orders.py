"""Orders for the agents of exits, and their outcomes. Not configuration: no revisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from model.change_feed import ORDER_CHANNEL, notify
from model.database import Database
from model.exit_states import SERVING, ExitState
from model.tables import ExitOrderRow, ExitRow, PoolRow

_CUT: Final = frozenset({ExitState.LEAKING})


@dataclass(frozen=True, slots=True)
class ExitOrder:
    """An order that an agent should execute before `expires_at`."""

    id: UUID
    exit_id: UUID
    kind: str
    expires_at: datetime
    detail: Mapping[str, Any] = field(default_factory=dict)


async def add(session: AsyncSession, row: ExitOrderRow) -> None:
    """Store a new order, and wake the replicas of the API."""
    session.add(row)
    await session.flush()
    await notify(session, ORDER_CHANNEL)


async def pending(database: Database, now: datetime) -> Sequence[ExitOrder]:
    """Return the orders that are neither done nor expired, the oldest first. Raises DatabaseUnreachable."""
    statement = """
        SELECT id, exit_id, kind, expires_at, detail FROM exit_order WHERE done_at IS NULL AND expires_at > $1
        ORDER BY asked_at, id
    """
    return [ExitOrder(**row) for row in await database.fetch(statement, now)]


async def find(session: AsyncSession, exit_id: UUID, order_id: UUID) -> ExitOrderRow | None:
    """Find an order of an exit."""
    query = select(ExitOrderRow).where(col(ExitOrderRow.id) == order_id, col(ExitOrderRow.exit_id) == exit_id)
    return (await session.execute(query)).scalar_one_or_none()


async def complete(
    session: AsyncSession,
    exit_id: UUID,
    order_id: UUID,
    *,
    now: datetime,
    outcome: Mapping[str, Any] | None,
    error: str,
) -> None:
    """Store the outcome of an order. An order that is done, or that belongs to another exit, stays as it is."""
    statement = update(ExitOrderRow).where(
        col(ExitOrderRow.id) == order_id, col(ExitOrderRow.exit_id) == exit_id, col(ExitOrderRow.done_at).is_(None)
    )
    await session.execute(statement.values(done_at=now, outcome=outcome, error=error))
    await notify(session, ORDER_CHANNEL)


async def prune(session: AsyncSession, *, before: datetime) -> None:
    """Delete orders that were given before a time."""
    await session.execute(delete(ExitOrderRow).where(col(ExitOrderRow.asked_at) < before))


async def has_another_serving(session: AsyncSession, exit_id: UUID) -> bool:
    """Tell whether another exit of the same pool serves."""
    other = aliased(ExitRow)
    query = select(
        exists().where(
            col(other.pool_id) == select(col(ExitRow.pool_id)).where(col(ExitRow.id) == exit_id).scalar_subquery(),
            col(other.id) != exit_id,
            col(other.state).in_(SERVING),
        )
    )
    return bool((await session.execute(query)).scalar_one())


async def endpoints_to_cut(
    session: AsyncSession, fleet_id: UUID, endpoints: Sequence[tuple[str, int]]
) -> set[tuple[str, int]]:
    """Return those of `endpoints`, which left EDS, whose open tunnels must be cut: their exits leak or were removed."""
    endpoint = func.concat(col(ExitRow.endpoint), " ", col(ExitRow.port))
    query = (
        select(col(ExitRow.endpoint), col(ExitRow.port))
        .join(PoolRow, col(PoolRow.id) == col(ExitRow.pool_id))
        .where(
            col(PoolRow.fleet_id) == fleet_id,
            or_(*(endpoint == f"{address} {port}" for address, port in endpoints)),
            col(ExitRow.state).not_in(_CUT),
        )
    )
    keep_open = {(row.endpoint, row.port) for row in (await session.execute(query)).all()}
    return {*endpoints} - keep_open
