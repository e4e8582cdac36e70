"""What exits went through: the states that a trigger notes down."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, exists, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from model.tables import ExitHistoryRow


async def states_since(session: AsyncSession, exit_id: UUID, since: datetime) -> Sequence[ExitHistoryRow]:
    """The states of an exit from a time on, in order, and before them the one that it was in then."""
    at, number = col(ExitHistoryRow.at), col(ExitHistoryRow.id)
    of_exit = select(ExitHistoryRow).where(col(ExitHistoryRow.exit_id) == exit_id)
    later = (await session.execute(of_exit.where(at > since).order_by(at, number))).scalars().all()
    before = (await session.execute(of_exit.where(at <= since).order_by(at.desc(), number.desc()).limit(1))).scalars()
    return [*before, *later]


async def prune(session: AsyncSession, *, before: datetime) -> None:
    """Forget states that ended before a time."""
    later = aliased(ExitHistoryRow)
    ended = exists().where(
        later.exit_id == ExitHistoryRow.exit_id,  # type: ignore[arg-type]
        col(later.at) <= before,
        col(later.id) > col(ExitHistoryRow.id),
    )
    await session.execute(delete(ExitHistoryRow).where(col(ExitHistoryRow.at) < before, ended))
