"""What is wished of containers: operators ask the API, and the keeper, which alone has an engine, carries it out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.change_feed import CONTAINER_CHANNEL, notify
from model.tables import ContainerCommandRow


async def add(session: AsyncSession, wish: ContainerCommandRow) -> None:
    """Wish for something; whoever has an engine is told."""
    session.add(wish)
    await session.flush()
    await notify(session, CONTAINER_CHANNEL)


async def pending(session: AsyncSession) -> Sequence[ContainerCommandRow]:
    """Those that nobody carried out yet, the oldest first."""
    query = select(ContainerCommandRow).where(col(ContainerCommandRow.done_at).is_(None))
    order = (col(ContainerCommandRow.asked_at), col(ContainerCommandRow.container))
    return (await session.execute(query.order_by(*order))).scalars().all()


async def newest_of(session: AsyncSession, names: Collection[str]) -> dict[str, ContainerCommandRow]:
    """What was wished of containers last, but for logs, by name."""
    query = select(ContainerCommandRow).where(
        col(ContainerCommandRow.container).in_(names), col(ContainerCommandRow.verb) != "logs"
    )
    rows = (await session.execute(query.order_by(col(ContainerCommandRow.asked_at)))).scalars()
    return {row.container: row for row in rows}


async def complete(session: AsyncSession, wish_id: UUID, now: datetime, *, answer: str = "", error: str = "") -> None:
    """It was carried out, or cannot be."""
    values = {"done_at": now, "answer": answer, "error": error}
    await session.execute(update(ContainerCommandRow).where(col(ContainerCommandRow.id) == wish_id).values(values))


async def find(session: AsyncSession, wish_id: UUID) -> ContainerCommandRow | None:
    """One, as it stands."""
    query = select(ContainerCommandRow).where(col(ContainerCommandRow.id) == wish_id)
    return (await session.execute(query)).scalar_one_or_none()


async def delete_command(session: AsyncSession, wish_id: UUID) -> None:
    """Whoever asked waits no more."""
    await session.execute(delete(ContainerCommandRow).where(col(ContainerCommandRow.id) == wish_id))


async def prune(session: AsyncSession, *, before: datetime) -> None:
    """Forget those that were asked before a time."""
    await session.execute(delete(ContainerCommandRow).where(col(ContainerCommandRow.asked_at) < before))
