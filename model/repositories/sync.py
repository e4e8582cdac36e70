"""Where proxies stand: for each type of resource what they should have, were sent, accepted and rejected, and since when."""

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
    """One proxy and one type of resource; revisions are those of the World that a response was made of."""

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


# One statement with a few arrays: a thousand rows cost PostgreSQL and the event loop some milliseconds.
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


async def record(session: AsyncSession, replica: UUID, standings: Sequence[TypeSync]) -> None:
    """Keep where these stand.

    That a stream ended counts unless the proxy has one with another replica since, which knows better.
    """
    if not standings:
        return
    # in one order on all replicas: each row is locked until the end, and they must not wait for each other
    standings = sorted(standings, key=lambda each: (each.proxy_id, each.type_url))
    columns = {
        "proxy_ids": [each.proxy_id for each in standings],
        "type_urls": [each.type_url for each in standings],
        "connected": [each.connected for each in standings],
        "wanted_revisions": [each.wanted_revision for each in standings],
        "wanted_ats": [each.wanted_at for each in standings],
        "sent_revisions": [each.sent_revision for each in standings],
        "sent_ats": [each.sent_at for each in standings],
        "accepted_revisions": [each.accepted_revision for each in standings],
        "accepted_ats": [each.accepted_at for each in standings],
        "rejected_revisions": [each.rejected_revision for each in standings],
        "rejected_ats": [each.rejected_at for each in standings],
        "details": [each.detail for each in standings],
    }
    await session.execute(_RECORD, {"replica": replica, **columns})


async def of_proxy(session: AsyncSession, proxy_id: UUID) -> Sequence[SyncRow]:
    """Where a proxy stands, by type."""
    query = select(SyncRow).where(col(SyncRow.proxy_id) == proxy_id).order_by(col(SyncRow.type_url))
    return (await session.execute(query)).scalars().all()


async def of_proxies(session: AsyncSession, proxy_ids: Sequence[UUID]) -> dict[UUID, list[SyncRow]]:
    """Where some proxies stand, by type."""
    which = col(SyncRow.proxy_id) == func.any(bindparam(None, [*proxy_ids], type_=ARRAY(Uuid)))
    query = select(SyncRow).where(which).order_by(col(SyncRow.proxy_id), col(SyncRow.type_url))
    found: dict[UUID, list[SyncRow]] = {}
    for row in (await session.execute(query)).scalars():
        found.setdefault(row.proxy_id, []).append(row)
    return found


async def forget(session: AsyncSession, proxy_id: UUID) -> None:
    """Drop where a proxy stood, when it is removed."""
    await session.execute(delete(SyncRow).where(col(SyncRow.proxy_id) == proxy_id))


@dataclass(frozen=True, slots=True)
class AckCount:
    """How far a revision has come, in proxies with a stream. `told` says whether all replicas know of it."""

    told: bool
    acknowledged: int
    rejected: int
    pending: int

    @property
    def done(self) -> bool:
        return self.told and not self.pending


_TALLY: Final = text(
    f"""
    WITH living AS (
        SELECT id, revision FROM replica
        WHERE seen_at > clock_timestamp() - interval '{REPLICA_DEAD_AFTER_S} seconds'
    ), concerned AS (
        SELECT bool_or(coalesce(rejected_revision, -1) >= :revision
                       AND coalesce(rejected_revision, -1) > coalesce(accepted_revision, -1)) AS rejected,
               bool_or(coalesce(accepted_revision, -1) < wanted_revision) AS pending
        FROM sync WHERE wanted_revision >= :revision AND replica IN (SELECT id FROM living)
        GROUP BY proxy_id
    )
    SELECT (SELECT coalesce(bool_and(revision >= :revision), true) FROM living) AS told,
           count(*) FILTER (WHERE NOT rejected AND NOT pending) AS acknowledged,
           count(*) FILTER (WHERE rejected) AS rejected,
           count(*) FILTER (WHERE pending AND NOT rejected) AS pending
    FROM concerned
    """  # noqa: S608 - a number of ours
)


async def count_acks(session: AsyncSession, revision: int) -> AckCount:
    """How many of the proxies that `revision` concerns have acknowledged it, rejected it, or not answered yet."""
    row = (await session.execute(_TALLY, {"revision": revision})).one()
    return AckCount(row.told, row.acknowledged, row.rejected, row.pending)
