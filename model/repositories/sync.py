"""The sync status of proxies: wanted, sent, accepted and rejected revisions of each resource type, with their times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, bindparam, delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.repositories.rollout import REPLICA_DEAD_AFTER_S
from model.tables import SyncRow


@dataclass(slots=True)
class TypeSync:
    """The sync status of one proxy and one resource type. Revisions are those of the Worlds that responses were made of."""

    proxy_id: UUID
    type_url: str
    connected: bool = True
    wanted_revision: int = 0
    wanted_at: datetime | None = None
    sent_revision: int | None = None
    sent_at: datetime | None = None
    accepted_revision: int | None = None
    accepted_at: datetime | None = None
    rejected_revision: int | None = None
    rejected_at: datetime | None = None
    detail: str = ""


# one statement with a few arrays: a thousand rows take PostgreSQL and the event loop some milliseconds
_RECORD: Final = text(
    """
    INSERT INTO sync AS known (proxy_id, type_url, replica, wanted_revision, wanted_at, sent_revision, sent_at,
                               accepted_revision, accepted_at, rejected_revision, rejected_at, detail)
    SELECT proxy_id, type_url, CASE WHEN connected THEN CAST(:replica AS uuid) END, wanted_revision, wanted_at,
           sent_revision, sent_at, accepted_revision, accepted_at, rejected_revision, rejected_at, detail
    FROM unnest(CAST(:proxy_ids AS uuid[]), CAST(:type_urls AS text[]), CAST(:connected AS boolean[]),
                CAST(:wanted_revisions AS bigint[]), CAST(:wanted_ats AS timestamptz[]),
                CAST(:sent_revisions AS bigint[]), CAST(:sent_ats AS timestamptz[]),
                CAST(:accepted_revisions AS bigint[]), CAST(:accepted_ats AS timestamptz[]),
                CAST(:rejected_revisions AS bigint[]), CAST(:rejected_ats AS timestamptz[]),
                CAST(:details AS text[]))
         AS news (proxy_id, type_url, connected, wanted_revision, wanted_at, sent_revision, sent_at,
                  accepted_revision, accepted_at, rejected_revision, rejected_at, detail)
    ON CONFLICT (proxy_id, type_url) DO UPDATE SET
        replica = excluded.replica,
        wanted_revision = excluded.wanted_revision,
        wanted_at = coalesce(excluded.wanted_at, known.wanted_at),
        sent_revision = coalesce(excluded.sent_revision, known.sent_revision),
        sent_at = coalesce(excluded.sent_at, known.sent_at),
        accepted_revision = coalesce(excluded.accepted_revision, known.accepted_revision),
        accepted_at = coalesce(excluded.accepted_at, known.accepted_at),
        rejected_revision = coalesce(excluded.rejected_revision, known.rejected_revision),
        rejected_at = coalesce(excluded.rejected_at, known.rejected_at),
        detail = coalesce(nullif(excluded.detail, ''), known.detail)
    WHERE excluded.replica IS NOT NULL OR known.replica IS NULL OR known.replica = CAST(:replica AS uuid)
    """
)


async def record(session: AsyncSession, replica: UUID, statuses: Sequence[TypeSync]) -> None:
    """Store sync statuses.

    The end of a stream is ignored when the proxy has a stream with another replica by now.
    """
    if not statuses:
        return
    # all replicas lock the rows in one order, so that they cannot deadlock
    statuses = sorted(statuses, key=lambda each: (each.proxy_id, each.type_url))
    columns = {
        "proxy_ids": [each.proxy_id for each in statuses],
        "type_urls": [each.type_url for each in statuses],
        "connected": [each.connected for each in statuses],
        "wanted_revisions": [each.wanted_revision for each in statuses],
        "wanted_ats": [each.wanted_at for each in statuses],
        "sent_revisions": [each.sent_revision for each in statuses],
        "sent_ats": [each.sent_at for each in statuses],
        "accepted_revisions": [each.accepted_revision for each in statuses],
        "accepted_ats": [each.accepted_at for each in statuses],
        "rejected_revisions": [each.rejected_revision for each in statuses],
        "rejected_ats": [each.rejected_at for each in statuses],
        "details": [each.detail for each in statuses],
    }
    await session.execute(_RECORD, {"replica": replica, **columns})


async def of_proxy(session: AsyncSession, proxy_id: UUID) -> Sequence[SyncRow]:
    """Return the sync status of a proxy, by type."""
    query = select(SyncRow).where(col(SyncRow.proxy_id) == proxy_id).order_by(col(SyncRow.type_url))
    return (await session.execute(query)).scalars().all()


async def of_proxies(session: AsyncSession, proxy_ids: Sequence[UUID]) -> dict[UUID, list[SyncRow]]:
    """Return the sync status of some proxies, by proxy and type."""
    which = col(SyncRow.proxy_id) == func.any(bindparam(None, [*proxy_ids], type_=ARRAY(Uuid)))
    query = select(SyncRow).where(which).order_by(col(SyncRow.proxy_id), col(SyncRow.type_url))
    found: dict[UUID, list[SyncRow]] = {}
    for row in (await session.execute(query)).scalars():
        found.setdefault(row.proxy_id, []).append(row)
    return found


async def forget(session: AsyncSession, proxy_id: UUID) -> None:
    """Delete the sync status of a removed proxy."""
    await session.execute(delete(SyncRow).where(col(SyncRow.proxy_id) == proxy_id))


@dataclass(frozen=True, slots=True)
class AckCount:
    """Numbers of connected proxies that a revision concerns. `published`: all living replicas have published it."""

    published: bool
    acknowledged: int
    rejected: int
    pending: int

    @property
    def done(self) -> bool:
        return self.published and not self.pending


_COUNT_ACKS: Final = text(
    f"""
    WITH alive AS (
        SELECT id, revision FROM replica
        WHERE seen_at > clock_timestamp() - interval '{REPLICA_DEAD_AFTER_S} seconds'
    ), concerned AS (
        SELECT bool_or(coalesce(rejected_revision, -1) >= :revision
                       AND coalesce(rejected_revision, -1) > coalesce(accepted_revision, -1)) AS rejected,
               bool_or(coalesce(accepted_revision, -1) < wanted_revision) AS pending
        FROM sync WHERE wanted_revision >= :revision AND replica IN (SELECT id FROM alive)
        GROUP BY proxy_id
    )
    SELECT (SELECT coalesce(bool_and(revision >= :revision), true) FROM alive) AS published,
           count(*) FILTER (WHERE NOT rejected AND NOT pending) AS acknowledged,
           count(*) FILTER (WHERE rejected) AS rejected,
           count(*) FILTER (WHERE pending AND NOT rejected) AS pending
    FROM concerned
    """  # noqa: S608 - a constant
)


async def count_acks(session: AsyncSession, revision: int) -> AckCount:
    """Count the proxies that `revision` concerns: acknowledged, rejected, or without a response so far."""
    row = (await session.execute(_COUNT_ACKS, {"revision": revision})).one()
    return AckCount(row.published, row.acknowledged, row.rejected, row.pending)
