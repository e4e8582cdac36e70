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
    """Store the last keepalive of a client. Of more than `keep` clients, those silent for the longest are deleted."""
    values = {"at": now, "body": dict(body)}
    statement = insert(KeepaliveRow).values(client_id=client_id, **values)
    stored = statement.on_conflict_do_update(index_elements=[col(KeepaliveRow.client_id)], set_=values)
    # xmax is 0 in a row that replaced none
    is_new: bool = (await session.execute(stored.returning(literal_column("xmax = 0")))).scalar_one()
    if is_new:
        await _delete_oldest(session, keep)


async def _delete_oldest(session: AsyncSession, keep: int) -> None:
    client_id = col(KeepaliveRow.client_id)
    over = select(client_id).order_by(col(KeepaliveRow.at).desc(), client_id).offset(keep)
    # skip rows that another writer deletes: waiting for each other could be a deadlock
    free = select(client_id).where(client_id.in_(over)).with_for_update(skip_locked=True)
    await session.execute(delete(KeepaliveRow).where(client_id.in_(free)))


async def newest(session: AsyncSession) -> Sequence[tuple[str, datetime, dict[str, Any]]]:
    """Return the time and the body of each client's last keepalive, by client id."""
    query = select(col(KeepaliveRow.client_id), col(KeepaliveRow.at), col(KeepaliveRow.body)).order_by(
        col(KeepaliveRow.client_id)
    )
    return [(row.client_id, row.at, row.body) for row in (await session.execute(query)).all()]


async def prune(session: AsyncSession, *, before: datetime) -> None:
    """Delete clients that have been silent since before a time."""
    await session.execute(delete(KeepaliveRow).where(col(KeepaliveRow.at) < before))
