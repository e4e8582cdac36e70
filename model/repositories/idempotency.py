"""What was answered to requests that may be repeated."""

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
    """A request's digest, and what was answered to it."""

    digest: str
    status: int
    headers: Mapping[str, str]
    body: str


async def find_reply(session: AsyncSession, actor_id: UUID, key: str) -> StoredReply | None:
    """What was answered to somebody under a key; whoever asks for the same meanwhile waits until the session ends."""
    await session.execute(_LOCK, {"key": f"{actor_id} {key}"})
    row = await session.get(IdempotencyRow, (actor_id, key))
    return None if row is None else StoredReply(row.digest, row.status, row.headers, row.body)


async def save_reply(session: AsyncSession, actor_id: UUID, key: str, answer: StoredReply) -> None:
    """Keep what is answered to somebody under a key."""
    row = IdempotencyRow(
        actor_id=actor_id,
        key=key,
        digest=answer.digest,
        status=answer.status,
        headers=dict(answer.headers),
        body=answer.body,
        at=datetime.now(UTC),
    )
    session.add(row)
    await session.flush()


async def prune(session: AsyncSession, *, before: datetime) -> None:
    """Forget what was answered before a time."""
    await session.execute(delete(IdempotencyRow).where(col(IdempotencyRow.at) < before))
