"""Requests for the configuration that a proxy holds. Only the replica with its stream knows, and it answers by PostgreSQL."""

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
    """Request the configuration of a proxy, with the content of the resources of one name (None: without content)."""
    request_id = uuid4()
    row = {"id": request_id, "proxy_id": proxy_id, "resource": resource, "asked_at": func.clock_timestamp()}
    await session.execute(insert(ConfigRequestRow).values(row))
    await notify(session, CONFIG_REQUEST_CHANNEL)
    return request_id


async def unanswered(session: AsyncSession, proxy_ids: Collection[UUID]) -> Sequence[ConfigRequestRow]:
    """Return the open requests for these proxies."""
    query = select(ConfigRequestRow).where(col(ConfigRequestRow.answer).is_(None))
    return [row for row in (await session.execute(query)).scalars() if row.proxy_id in proxy_ids]


async def answer(session: AsyncSession, request_id: UUID, content: dict[str, Any]) -> None:
    """Answer a request. It does nothing when the request was deleted."""
    await session.execute(update(ConfigRequestRow).where(col(ConfigRequestRow.id) == request_id).values(answer=content))


async def find_answer(session: AsyncSession, request_id: UUID) -> dict[str, Any] | None:
    """Return the answer to a request; None while there is none."""
    query = select(col(ConfigRequestRow.answer)).where(col(ConfigRequestRow.id) == request_id)
    return (await session.execute(query)).scalar_one_or_none()


async def delete_request(session: AsyncSession, request_id: UUID) -> None:
    """Delete a request when nobody waits for its answer any more."""
    await session.execute(delete(ConfigRequestRow).where(col(ConfigRequestRow.id) == request_id))
