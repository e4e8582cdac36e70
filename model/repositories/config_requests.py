"""What a proxy holds is known to the replica that it has a stream with: the API asks there by way of PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.change_feed import CONFIG_REQUEST_CHANNEL, notify
from model.tables import ConfigRequestRow


async def add(session: AsyncSession, proxy_id: UUID, resource: str | None) -> UUID:
    """Ask all replicas what a proxy holds, with the content of the resources of one name (None: of none)."""
    question = uuid4()
    row = {"id": question, "proxy_id": proxy_id, "resource": resource, "asked_at": func.clock_timestamp()}
    await session.execute(insert(ConfigRequestRow).values(row))
    await notify(session, CONFIG_REQUEST_CHANNEL)
    return question


async def unanswered(session: AsyncSession, about: Collection[UUID]) -> Sequence[ConfigRequestRow]:
    """The questions about these proxies that nobody answered yet."""
    query = select(ConfigRequestRow).where(col(ConfigRequestRow.answer).is_(None))
    return [row for row in (await session.execute(query)).scalars() if row.proxy_id in about]


async def answer(session: AsyncSession, question: UUID, content: dict[str, Any]) -> None:
    """Answer one; nothing if whoever asked waits no more."""
    await session.execute(update(ConfigRequestRow).where(col(ConfigRequestRow.id) == question).values(answer=content))


async def find_answer(session: AsyncSession, question: UUID) -> dict[str, Any] | None:
    """The answer, once there is one."""
    query = select(col(ConfigRequestRow.answer)).where(col(ConfigRequestRow.id) == question)
    return (await session.execute(query)).scalar_one_or_none()


async def delete_request(session: AsyncSession, question: UUID) -> None:
    """Whoever asked waits no more."""
    await session.execute(delete(ConfigRequestRow).where(col(ConfigRequestRow.id) == question))
