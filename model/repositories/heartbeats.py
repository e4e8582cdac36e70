"""The last heartbeat of each proxy, and the ingest watermark of each replica of the API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Uuid,
    bindparam,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.change_feed import HEARTBEAT_CHANNEL, notify
from model.database import fetch_in
from model.request_signature import CLOCK_TOLERANCE
from model.tables import HeartbeatRow, IngestWatermarkRow


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A proxy's report on itself.

    `heard_at` is the time at the replica that received it. `signed_at` orders the reports of a proxy.
    """

    proxy_id: UUID
    heard_at: datetime
    signed_at: datetime
    tunnel_up: bool
    envoy_up: bool
    stopping: bool
    reason: str
    version: str
    observation: Mapping[str, Any] | None = None
    """The fields of `agent.config.status.Observation`; None: its agent has no observer."""
    open_requests: int = 0
    carried_bytes: int = 0
    """Traffic since the start of its Envoy, both directions together."""
    certificate: str | None = None
    """The thumbprint of the certificate with whose key it was signed; None: not known."""
    metrics_address: str | None = None
    """host:port at which Prometheus scrapes its Envoy; None: not reported."""


_STORE = text(
    """
    WITH reported AS (
        SELECT reported.* FROM unnest(
            CAST(:proxy_id AS uuid[]), CAST(:heard_at AS timestamptz[]), CAST(:signed_at AS timestamptz[]),
            CAST(:tunnel_up AS bool[]), CAST(:envoy_up AS bool[]), CAST(:stopping AS bool[]), CAST(:reason AS text[]),
            CAST(:version AS text[]), CAST(:observation AS text[]), CAST(:open_requests AS int[]),
            CAST(:carried_bytes AS bigint[]), CAST(:certificate AS text[]), CAST(:metrics_address AS text[])
        ) AS reported (
            proxy_id, heard_at, signed_at, tunnel_up, envoy_up, leaving, reason, version, observation, open_requests,
            carried_bytes, certificate, metrics_address
        )
        JOIN proxy ON proxy.id = reported.proxy_id
    ), stored AS (
        INSERT INTO heartbeat AS known (
            proxy_id, heard_at, signed_at, tunnel_up, envoy_up, leaving, reason, version, observation, open_requests,
            carried_bytes, certificate, metrics_address, month_bytes
        )
        SELECT proxy_id, heard_at, signed_at, tunnel_up, envoy_up, leaving, reason, version, CAST(observation AS jsonb),
            open_requests, carried_bytes, certificate, metrics_address, carried_bytes
        FROM reported ORDER BY proxy_id
        ON CONFLICT (proxy_id) DO UPDATE SET
            heard_at = excluded.heard_at, signed_at = excluded.signed_at, tunnel_up = excluded.tunnel_up,
            envoy_up = excluded.envoy_up, leaving = excluded.leaving, reason = excluded.reason,
            version = excluded.version, observation = excluded.observation, open_requests = excluded.open_requests,
            carried_bytes = excluded.carried_bytes, certificate = excluded.certificate,
            metrics_address = excluded.metrics_address,
            month_bytes = CASE
                WHEN date_trunc('month', excluded.heard_at, 'UTC') = date_trunc('month', known.heard_at, 'UTC')
                THEN known.month_bytes ELSE 0
            END + CASE
                -- fewer than before: its Envoy was started anew
                WHEN excluded.carried_bytes >= known.carried_bytes THEN excluded.carried_bytes - known.carried_bytes
                ELSE excluded.carried_bytes
            END
        -- model.request_signature.is_newer
        WHERE excluded.signed_at > known.signed_at
            OR known.signed_at > excluded.heard_at + CAST(:tolerance AS interval)
        RETURNING proxy_id
    )
    SELECT proxy_id, known.signed_at FROM heartbeat AS known JOIN reported USING (proxy_id)
    WHERE proxy_id NOT IN (SELECT proxy_id FROM stored) AND known.signed_at >= reported.signed_at
    """
)


async def store(session: AsyncSession, heartbeats: Sequence[Heartbeat]) -> Mapping[UUID, datetime]:
    """Store the newest heartbeat of each proxy, in one statement, unless the stored one is newer.

    Return the times of the stored ones that are, by proxy. Heartbeats of removed proxies are dropped. All replicas lock the
    rows in one order, so that they cannot deadlock.
    """
    newest = {beat.proxy_id: beat for beat in sorted(heartbeats, key=lambda beat: beat.signed_at)}
    if not newest:
        return {}
    columns = {name.name: [getattr(beat, name.name) for beat in newest.values()] for name in fields(Heartbeat)}
    columns["observation"] = [None if each is None else json.dumps(each) for each in columns["observation"]]
    rows = (await session.execute(_STORE, {**columns, "tolerance": CLOCK_TOLERANCE})).all()
    return {row.proxy_id: row.signed_at for row in rows}


async def forget(session: AsyncSession, proxy_id: UUID) -> None:
    """Delete the heartbeat of a proxy that is removed or replaced."""
    row = await session.get(HeartbeatRow, proxy_id)
    if row is not None:
        await session.delete(row)


async def find(session: AsyncSession, proxy_id: UUID) -> HeartbeatRow | None:
    """Return the last heartbeat of a proxy; None when there is none."""
    return await session.get(HeartbeatRow, proxy_id)


async def record_ingest_watermark(session: AsyncSession, replica: str, until: datetime) -> None:
    """Record that `replica` received and stored heartbeats until then."""
    statement = insert(IngestWatermarkRow).values(replica=replica, heard_until=until)
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=["replica"], set_={"heard_until": statement.excluded.heard_until}
        )
    )


async def ingest_watermark(session: AsyncSession) -> datetime | None:
    """Return the newest watermark of all replicas; None before the first."""
    return (await session.execute(select(func.max(col(IngestWatermarkRow.heard_until))))).scalar_one()


async def wake_keeper(session: AsyncSession) -> None:
    """Wake the keeper: a stored heartbeat should change a state."""
    await notify(session, HEARTBEAT_CHANNEL)


async def of_proxies(session: AsyncSession, proxy_ids: Sequence[UUID]) -> dict[UUID, HeartbeatRow]:
    """Return the last heartbeats of some proxies, by id."""
    query = select(HeartbeatRow).where(_of(proxy_ids))
    return {row.proxy_id: row for row in (await session.execute(query)).scalars()}


class LastReport(NamedTuple):
    """The part of an exit's last heartbeat that lists of exits show."""

    heard_at: datetime
    observation: dict[str, Any] | None
    open_requests: int
    month_bytes: int


async def last_reports(session: AsyncSession, proxy_ids: Sequence[UUID]) -> dict[UUID, LastReport]:
    """Return the last reports of some exits, by id. The session's transaction must have begun."""
    statement = f"SELECT proxy_id, {', '.join(LastReport._fields)} FROM heartbeat WHERE proxy_id = ANY($1)"  # noqa: S608 - names
    found = await fetch_in(session, statement, [*proxy_ids])
    return {row["proxy_id"]: LastReport(*(row[name] for name in LastReport._fields)) for row in found}


def _of(proxy_ids: Sequence[UUID]) -> ColumnElement[bool]:
    """Match ids with one parameter, however many they are."""
    return col(HeartbeatRow.proxy_id) == func.any(bindparam(None, [*proxy_ids], type_=ARRAY(Uuid)))
