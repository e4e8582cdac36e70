"""What proxies answered: the accepted and the rejected versions (rollout state), and each proxy's sync status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.changes import Unit
from model.tables import AcceptedRow, RejectionRow, SyncRow
from model.world import Accepted, Kind, Rejection

_ROLLOUT_LOCK = 0x726F_6C6C  # "roll"


@dataclass(frozen=True, slots=True)
class Sync:
    """What a proxy answered last for a type, and the revision that the answered response was made of."""

    proxy_id: UUID
    type_url: str
    revision: int
    accepted: bool
    detail: str
    at: datetime


async def lock(session: AsyncSession) -> None:
    """Let one recorder at a time change the rollout state, so that each sees what the others wrote before it."""
    await session.execute(text(f"SELECT pg_advisory_xact_lock({_ROLLOUT_LOCK})"))


async def record_accepted(unit: Unit, accepted: Accepted, now: datetime) -> None:
    """Keep the version that a group accepted last, with its bytes, unless another of the group refused it.

    A revision only if the resource has a rejection: without one no snapshot depends on what was accepted.
    """
    key = accepted.key
    rejected = select(col(RejectionRow.version)).where(
        col(RejectionRow.group) == key.group,
        col(RejectionRow.type_url) == key.type_url,
        col(RejectionRow.name) == key.name,
    )
    versions = (await unit.session.execute(rejected)).scalars().all()
    if accepted.version in versions:
        return
    statement = insert(AcceptedRow).values(
        group=key.group, type_url=key.type_url, name=key.name, version=accepted.version, body=accepted.body, at=now
    )
    upsert = statement.on_conflict_do_update(
        index_elements=["group", "type_url", "name"],
        set_={name: statement.excluded[name] for name in ("version", "body", "at")},
        where=statement.excluded.version != col(AcceptedRow.version),
    ).returning(col(AcceptedRow.version))
    if (await unit.session.execute(upsert)).first() is not None and versions:
        unit.touch(Kind.ACCEPTED, key)


async def record_rejection(unit: Unit, rejection: Rejection, now: datetime) -> None:
    """Keep that a version was refused first by this proxy; a revision, for the snapshots that hold it change."""
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
    kept = statement.on_conflict_do_nothing().returning(col(RejectionRow.version))
    if (await unit.session.execute(kept)).first() is None:
        return
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
        # in one order on all replicas: each row is locked until the end, and they must not wait for each other
        for _, status in sorted(newest.items())
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
