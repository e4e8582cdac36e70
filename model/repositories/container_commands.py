"""What is wished of containers: operators ask the API, and the keeper, which alone has an engine, carries it out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.tables import ContainerWishRow
from model.unit_of_work import CONTAINER_CHANNEL, notify


async def ask(session: AsyncSession, wish: ContainerWishRow) -> None:
    """Wish for something; whoever has an engine is told."""
    session.add(wish)
    await session.flush()
    await notify(session, CONTAINER_CHANNEL)


async def undone(session: AsyncSession) -> Sequence[ContainerWishRow]:
    """Those that nobody carried out yet, the oldest first."""
    query = select(ContainerWishRow).where(col(ContainerWishRow.done_at).is_(None))
    order = (col(ContainerWishRow.asked_at), col(ContainerWishRow.container))
    return (await session.execute(query.order_by(*order))).scalars().all()


async def last_of(session: AsyncSession, names: Collection[str]) -> dict[str, ContainerWishRow]:
    """What was wished of containers last, but for logs, by name."""
    query = select(ContainerWishRow).where(
        col(ContainerWishRow.container).in_(names), col(ContainerWishRow.verb) != "logs"
    )
    rows = (await session.execute(query.order_by(col(ContainerWishRow.asked_at)))).scalars()
    return {row.container: row for row in rows}


async def done(session: AsyncSession, wish_id: UUID, now: datetime, *, answer: str = "", error: str = "") -> None:
    """It was carried out, or cannot be."""
    values = {"done_at": now, "answer": answer, "error": error}
    await session.execute(update(ContainerWishRow).where(col(ContainerWishRow.id) == wish_id).values(values))


async def find(session: AsyncSession, wish_id: UUID) -> ContainerWishRow | None:
    """One, as it stands."""
    query = select(ContainerWishRow).where(col(ContainerWishRow.id) == wish_id)
    return (await session.execute(query)).scalar_one_or_none()


async def forget(session: AsyncSession, wish_id: UUID) -> None:
    """Whoever asked waits no more."""
    await session.execute(delete(ContainerWishRow).where(col(ContainerWishRow.id) == wish_id))


async def prune(session: AsyncSession, *, before: datetime) -> None:
    """Forget those that were asked before a time."""
    await session.execute(delete(ContainerWishRow).where(col(ContainerWishRow.asked_at) < before))
