"""The last keepalive of each VPN Sentinel client. Not configuration: no revision, no event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, literal_column, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.tables import KeepaliveRow

MAX_CLIENTS: Final = 10_000


async def store(
    session: AsyncSession, client_id: str, body: Mapping[str, str], now: datetime, *, keep: int = MAX_CLIENTS
) -> None:
    """Keep what a client said last. Of more than `keep` clients, those are forgotten that were silent the longest."""
    said = {"at": now, "body": dict(body)}
    made = insert(KeepaliveRow).values(client_id=client_id, **said)
    stored = made.on_conflict_do_update(index_elements=[col(KeepaliveRow.client_id)], set_=said)
    # xmax is 0 in a row that replaced none
    is_new: bool = (await session.execute(stored.returning(literal_column("xmax = 0")))).scalar_one()
    if is_new:
        await _forget_oldest(session, keep)


async def _forget_oldest(session: AsyncSession, keep: int) -> None:
    client_id = col(KeepaliveRow.client_id)
    over = select(client_id).order_by(col(KeepaliveRow.at).desc(), client_id).offset(keep)
    # who forgets the same ones at the same time does it for both: waiting for each other could be a deadlock
    free = select(client_id).where(client_id.in_(over)).with_for_update(skip_locked=True)
    await session.execute(delete(KeepaliveRow).where(client_id.in_(free)))


async def newest(session: AsyncSession) -> Sequence[tuple[str, datetime, dict[str, Any]]]:
    """All clients, by id: when they were heard last, and what they said."""
    query = select(col(KeepaliveRow.client_id), col(KeepaliveRow.at), col(KeepaliveRow.body)).order_by(
        col(KeepaliveRow.client_id)
    )
    return [(row.client_id, row.at, row.body) for row in (await session.execute(query)).all()]


async def prune(session: AsyncSession, *, before: datetime) -> None:
    """Forget clients that are silent since before a time."""
    await session.execute(delete(KeepaliveRow).where(col(KeepaliveRow.at) < before))
