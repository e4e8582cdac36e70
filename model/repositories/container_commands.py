"""Commands for containers. The API stores them for operators, and the keeper with an engine executes them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.change_feed import CONTAINER_CHANNEL, notify
from model.tables import ContainerCommandRow


async def add(session: AsyncSession, command: ContainerCommandRow) -> None:
    """Store a command, and wake the keeper that has an engine."""
    session.add(command)
    await session.flush()
    await notify(session, CONTAINER_CHANNEL)


async def pending(session: AsyncSession) -> Sequence[ContainerCommandRow]:
    """Return the commands that are not executed yet, the oldest first."""
    query = select(ContainerCommandRow).where(col(ContainerCommandRow.done_at).is_(None))
    order = (col(ContainerCommandRow.asked_at), col(ContainerCommandRow.container))
    return (await session.execute(query.order_by(*order))).scalars().all()


async def newest_of(session: AsyncSession, names: Collection[str]) -> dict[str, ContainerCommandRow]:
    """Return the newest command of each container, by name, except for logs."""
    query = select(ContainerCommandRow).where(
        col(ContainerCommandRow.container).in_(names), col(ContainerCommandRow.verb) != "logs"
    )
    rows = (await session.execute(query.order_by(col(ContainerCommandRow.asked_at)))).scalars()
    return {row.container: row for row in rows}


async def complete(
    session: AsyncSession, command_id: UUID, now: datetime, *, answer: str = "", error: str = ""
) -> None:
    """Store the outcome of a command."""
    values = {"done_at": now, "answer": answer, "error": error}
    await session.execute(update(ContainerCommandRow).where(col(ContainerCommandRow.id) == command_id).values(values))


async def find(session: AsyncSession, command_id: UUID) -> ContainerCommandRow | None:
    """Return a command with its outcome so far."""
    query = select(ContainerCommandRow).where(col(ContainerCommandRow.id) == command_id)
    return (await session.execute(query)).scalar_one_or_none()


async def delete_command(session: AsyncSession, command_id: UUID) -> None:
    """Delete a command when nobody waits for its outcome any more."""
    await session.execute(delete(ContainerCommandRow).where(col(ContainerCommandRow.id) == command_id))


async def prune(session: AsyncSession, *, before: datetime) -> None:
    """Delete commands that were given before a time."""
    await session.execute(delete(ContainerCommandRow).where(col(ContainerCommandRow.asked_at) < before))
