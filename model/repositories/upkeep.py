"""What the keeper writes: states of exits, resolved names, and the end of old rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.changes import Unit
from model.tables import ChangeRow, ExitRow, JoinTokenRow
from model.world import ExitState, Kind


async def change_state(unit: Unit, exit_id: UUID, old: ExitState, new: ExitState, reason: str, now: datetime) -> bool:
    """Move an exit from one state to another; False when it is not in the old one any more."""
    statement = (
        update(ExitRow)
        .where(col(ExitRow.id) == exit_id, col(ExitRow.state) == old)
        .values(state=new, state_reason=reason, state_since=now)
        .returning(col(ExitRow.id))
    )
    changed = (await unit.session.execute(statement)).scalar_one_or_none() is not None
    if changed:
        unit.touch(Kind.EXIT, exit_id)
    return changed


async def named_exits(session: AsyncSession) -> Sequence[tuple[UUID, str, str | None]]:
    """Exits that are declared by a host name: id, address, and the endpoint that it resolved to."""
    query = select(col(ExitRow.id), col(ExitRow.address), col(ExitRow.endpoint)).where(
        col(ExitRow.endpoint).is_distinct_from(col(ExitRow.address))
    )
    return [(row.id, row.address, row.endpoint) for row in (await session.execute(query)).all()]


async def set_endpoint(unit: Unit, exit_id: UUID, address: str, endpoint: str) -> None:
    """Keep what an exit's host name resolved to, unless its address changed meanwhile."""
    statement = (
        update(ExitRow)
        .where(col(ExitRow.id) == exit_id, col(ExitRow.address) == address)
        .values(endpoint=endpoint)
        .returning(col(ExitRow.id))
    )
    if (await unit.session.execute(statement)).scalar_one_or_none() is not None:
        unit.touch(Kind.EXIT, exit_id)


async def prune(session: AsyncSession, *, before: datetime, keep: int) -> None:
    """Forget changes from before a time, but for the newest `keep`, and join tokens that expired then.

    Revisions are forgotten whole and in order, whatever the clocks of their writers said: what is left has no hole.
    """
    revision = col(ChangeRow.revision)
    newest = select(revision).order_by(col(ChangeRow.id).desc()).offset(keep - 1).limit(1).scalar_subquery()
    young = select(func.min(revision)).where(col(ChangeRow.at) >= before).scalar_subquery()
    await session.execute(delete(ChangeRow).where(revision < newest, revision < func.coalesce(young, newest)))
    await session.execute(delete(JoinTokenRow).where(col(JoinTokenRow.expires_at) < before))
