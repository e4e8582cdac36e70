"""The history of exits' states, which a trigger writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import DateTime, Uuid, column, delete, exists, func, select, values
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from model.database import fetch_in
from model.exit_states import SERVING, TAKEN_OUT, ExitState
from model.state_history import intervals_of, summarize
from model.tables import ExitHistoryRow


async def states_since(session: AsyncSession, exit_id: UUID, since: datetime) -> Sequence[ExitHistoryRow]:
    """Return the states of an exit since a time, in order, preceded by the state that it was in at that time."""
    at, number = col(ExitHistoryRow.at), col(ExitHistoryRow.id)
    of_exit = select(ExitHistoryRow).where(col(ExitHistoryRow.exit_id) == exit_id)
    later = (await session.execute(of_exit.where(at > since).order_by(at, number))).scalars().all()
    before = (await session.execute(of_exit.where(at <= since).order_by(at.desc(), number.desc()).limit(1))).scalars()
    return [*before, *later]


async def count_flaps(session: AsyncSession, exits: Mapping[UUID, datetime]) -> dict[UUID, int]:
    """Count how often each exit stopped serving since its own time, except on purpose. Exits that never did are left out."""
    since = values(column("exit_id", Uuid), column("since", DateTime(timezone=True)), name="since").data(
        [*exits.items()]
    )
    query = (
        select(col(ExitHistoryRow.exit_id), func.count())
        .join(since, since.c.exit_id == col(ExitHistoryRow.exit_id))
        .where(
            col(ExitHistoryRow.at) > since.c.since,
            col(ExitHistoryRow.previous).in_(SERVING),
            col(ExitHistoryRow.state).not_in(SERVING | TAKEN_OUT),
        )
        .group_by(col(ExitHistoryRow.exit_id))
    )
    return {row[0]: row[1] for row in (await session.execute(query)).all()}


_STATE_AT: Final = """
    SELECT DISTINCT ON (exit_id) exit_id, at, state, reason FROM exit_history WHERE exit_id = ANY($1) AND at <= $2
    ORDER BY exit_id, at DESC, id DESC
"""
_STATES_AFTER: Final = """
    SELECT exit_id, at, state, reason FROM exit_history WHERE exit_id = ANY($1) AND at > $2 ORDER BY at, id
"""


async def uptimes(
    session: AsyncSession, exit_ids: Sequence[UUID], since: datetime, until: datetime
) -> dict[UUID, float]:
    """Return the uptime of exits from `since` to `until`, from 0 to 1, by id. Exits that were taken out all the time are left out.

    The session's transaction must have begun.
    """
    changes_of: dict[UUID, list[tuple[datetime, ExitState, str]]] = {}
    for statement in (_STATE_AT, _STATES_AFTER):
        for row in await fetch_in(session, statement, [*exit_ids], since):
            changes_of.setdefault(row["exit_id"], []).append((row["at"], ExitState(row["state"]), row["reason"]))
    found = {
        exit_id: summarize([*intervals_of(changes)], since, until).uptime for exit_id, changes in changes_of.items()
    }
    return {exit_id: uptime for exit_id, uptime in found.items() if uptime is not None}


async def prune(session: AsyncSession, *, before: datetime) -> None:
    """Delete states that ended before a time."""
    later = aliased(ExitHistoryRow)
    ended = exists().where(
        later.exit_id == ExitHistoryRow.exit_id,  # type: ignore[arg-type]
        col(later.at) <= before,
        col(later.id) > col(ExitHistoryRow.id),
    )
    await session.execute(delete(ExitHistoryRow).where(col(ExitHistoryRow.at) < before, ended))
