"""What proxies answered: the accepted and the rejected versions (rollout state), and each proxy's sync status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.changes import Unit
from model.tables import AcceptedRow, RejectionRow, SyncRow
from model.world import Accepted, Kind, Rejection


@dataclass(frozen=True, slots=True)
class Sync:
    """What a proxy answered last for a type, and the revision that the answered response was made of."""

    proxy_id: UUID
    type_url: str
    revision: int
    accepted: bool
    detail: str
    at: datetime


async def record_accepted(session: AsyncSession, accepted: Accepted, now: datetime) -> None:
    """Keep the version that a group accepted last, with its bytes.

    No revision: what is kept changes no snapshot until a rejection makes it the one to fall back to.
    """
    statement = insert(AcceptedRow).values(
        group=accepted.key.group,
        type_url=accepted.key.type_url,
        name=accepted.key.name,
        version=accepted.version,
        body=accepted.body,
        at=now,
    )
    keys = ["group", "type_url", "name"]
    fields = {name: statement.excluded[name] for name in ("version", "body", "at")}
    await session.execute(statement.on_conflict_do_update(index_elements=keys, set_=fields))


async def record_rejection(unit: Unit, rejection: Rejection, now: datetime) -> None:
    """Keep that a version was refused; a revision, for the snapshots that hold it change."""
    key = rejection.key
    statement = insert(RejectionRow).values(
        group=key.group,
        type_url=key.type_url,
        name=key.name,
        version=rejection.version,
        proxy_id=rejection.proxy_id,
        detail=rejection.detail,
        at=now,
    )
    await unit.session.execute(statement.on_conflict_do_nothing())
    unit.touch(Kind.REJECTION, (key, rejection.version))
    # the accepted version is what the snapshots fall back to: replicas read it together with the rejection
    unit.touch(Kind.ACCEPTED, key)


async def record_sync(session: AsyncSession, statuses: Sequence[Sync]) -> None:
    """Keep the newest answer of each proxy and type, in one statement."""
    if not statuses:
        return
    newest = {(status.proxy_id, status.type_url): status for status in statuses}
    rows = [
        {
            "proxy_id": status.proxy_id,
            "type_url": status.type_url,
            "revision": status.revision,
            "accepted": status.accepted,
            "detail": status.detail,
            "at": status.at,
        }
        for status in newest.values()
    ]
    statement = insert(SyncRow)
    fields = {name: statement.excluded[name] for name in ("revision", "accepted", "detail", "at")}
    await session.execute(statement.on_conflict_do_update(index_elements=["proxy_id", "type_url"], set_=fields), rows)


async def sync_of(session: AsyncSession, proxy_id: UUID) -> Sequence[SyncRow]:
    """What a proxy answered last, by type."""
    query = select(SyncRow).where(col(SyncRow.proxy_id) == proxy_id).order_by(col(SyncRow.type_url))
    return (await session.execute(query)).scalars().all()


async def all_sync(session: AsyncSession) -> dict[UUID, list[SyncRow]]:
    """What every proxy answered last, by type."""
    query = select(SyncRow).order_by(col(SyncRow.proxy_id), col(SyncRow.type_url))
    found: dict[UUID, list[SyncRow]] = {}
    for row in (await session.execute(query)).scalars():
        found.setdefault(row.proxy_id, []).append(row)
    return found


async def forget_sync(session: AsyncSession, proxy_id: UUID) -> None:
    """Drop what a proxy answered, when it is removed."""
    await session.execute(delete(SyncRow).where(col(SyncRow.proxy_id) == proxy_id))


async def rejections_by(session: AsyncSession, proxy_id: UUID | None = None) -> Sequence[RejectionRow]:
    """The versions that a proxy (None: any) was the first of its group to refuse, newest first."""
    query = select(RejectionRow).order_by(col(RejectionRow.at).desc())
    if proxy_id is not None:
        query = query.where(col(RejectionRow.proxy_id) == proxy_id)
    return (await session.execute(query)).scalars().all()


async def rejections_of(session: AsyncSession, group: str) -> Sequence[RejectionRow]:
    """The versions that the proxies of a group refused, newest first."""
    query = select(RejectionRow).where(col(RejectionRow.group) == group).order_by(col(RejectionRow.at).desc())
    return (await session.execute(query)).scalars().all()
