"""Stored replies to requests with an Idempotency-Key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.tables import IdempotencyRow

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0x6964656d))")


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A request's digest and the reply to it."""

    digest: str
    status: int
    headers: Mapping[str, str]
    body: str


async def find_reply(session: AsyncSession, actor_id: UUID, key: str) -> StoredReply | None:
    """Find the reply to a caller under a key. A concurrent request with the same key waits until the transaction ends."""
    await session.execute(_LOCK, {"key": f"{actor_id} {key}"})
    row = await session.get(IdempotencyRow, (actor_id, key))
    return None if row is None else StoredReply(row.digest, row.status, row.headers, row.body)


async def save_reply(session: AsyncSession, actor_id: UUID, key: str, reply: StoredReply) -> None:
    """Store the reply to a caller under a key."""
    row = IdempotencyRow(
        actor_id=actor_id,
        key=key,
        digest=reply.digest,
        status=reply.status,
        headers=dict(reply.headers),
        body=reply.body,
        at=datetime.now(UTC),
    )
    session.add(row)
    await session.flush()


async def prune(session: AsyncSession, *, before: datetime) -> None:
    """Delete replies from before a time."""
    await session.execute(delete(IdempotencyRow).where(col(IdempotencyRow.at) < before))
