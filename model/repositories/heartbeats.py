"""Heartbeats, and how long the control plane was able to hear them."""

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
from model.tables import HeartbeatRow, IngestWatermarkRow


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a proxy said of itself. `heard_at` is the clock of the replica that heard it."""

    proxy_id: UUID
    heard_at: datetime
    tunnel_up: bool
    envoy_up: bool
    leaving: bool
    reason: str
    version: str
    observation: Mapping[str, Any] | None = None
    """As `agent.config.status.Observation` has it; None: nobody looks where its traffic comes out."""
    open_requests: int = 0
    carried_bytes: int = 0
    """Since its Envoy was started, in both directions."""


_STORE = text(
    """
    INSERT INTO heartbeat AS known (
        proxy_id, heard_at, tunnel_up, envoy_up, leaving, reason, version, observation, open_requests, carried_bytes,
        month_bytes
    )
    SELECT said.proxy_id, heard_at, tunnel_up, envoy_up, leaving, reason, version, CAST(observation AS jsonb),
        open_requests, carried_bytes, carried_bytes
    FROM unnest(
        CAST(:proxy_id AS uuid[]), CAST(:heard_at AS timestamptz[]), CAST(:tunnel_up AS bool[]),
        CAST(:envoy_up AS bool[]), CAST(:leaving AS bool[]), CAST(:reason AS text[]), CAST(:version AS text[]),
        CAST(:observation AS text[]), CAST(:open_requests AS int[]), CAST(:carried_bytes AS bigint[])
    ) AS said (
        proxy_id, heard_at, tunnel_up, envoy_up, leaving, reason, version, observation, open_requests, carried_bytes
    )
    JOIN proxy ON proxy.id = said.proxy_id
    ORDER BY said.proxy_id
    ON CONFLICT (proxy_id) DO UPDATE SET
        heard_at = excluded.heard_at, tunnel_up = excluded.tunnel_up, envoy_up = excluded.envoy_up,
        leaving = excluded.leaving, reason = excluded.reason, version = excluded.version,
        observation = excluded.observation, open_requests = excluded.open_requests,
        carried_bytes = excluded.carried_bytes,
        month_bytes = CASE
            WHEN date_trunc('month', excluded.heard_at, 'UTC') = date_trunc('month', known.heard_at, 'UTC')
            THEN known.month_bytes ELSE 0
        END + CASE
            -- fewer than before: its Envoy is another one
            WHEN excluded.carried_bytes >= known.carried_bytes THEN excluded.carried_bytes - known.carried_bytes
            ELSE excluded.carried_bytes
        END
    WHERE excluded.heard_at > known.heard_at
    """
)


async def store(session: AsyncSession, heartbeats: Sequence[Heartbeat]) -> None:
    """Keep the newest heartbeat of each proxy, in one statement. Those of proxies that are gone are dropped.

    In one order on all replicas: each row is locked until the end, and they must not wait for each other.
    """
    newest = {beat.proxy_id: beat for beat in sorted(heartbeats, key=lambda beat: beat.heard_at)}
    if newest:
        columns = {name.name: [getattr(beat, name.name) for beat in newest.values()] for name in fields(Heartbeat)}
        columns["observation"] = [None if each is None else json.dumps(each) for each in columns["observation"]]
        await session.execute(_STORE, columns)


async def forget(session: AsyncSession, proxy_id: UUID) -> None:
    """Drop what was heard of a proxy that is removed."""
    row = await session.get(HeartbeatRow, proxy_id)
    if row is not None:
        await session.delete(row)


async def find(session: AsyncSession, proxy_id: UUID) -> HeartbeatRow | None:
    """The last that was heard of a proxy; None when it never was."""
    return await session.get(HeartbeatRow, proxy_id)


async def record_ingest_watermark(session: AsyncSession, replica: str, until: datetime) -> None:
    """Say that `replica` could hear and store heartbeats until then."""
    statement = insert(IngestWatermarkRow).values(replica=replica, heard_until=until)
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=["replica"], set_={"heard_until": statement.excluded.heard_until}
        )
    )


async def ingest_watermark(session: AsyncSession) -> datetime | None:
    """Until when some replica was able to hear; None when none ever was."""
    return (await session.execute(select(func.max(col(IngestWatermarkRow.heard_until))))).scalar_one()


async def wake_keeper(session: AsyncSession) -> None:
    """Hint to the keeper that a stored heartbeat should change a state."""
    await notify(session, HEARTBEAT_CHANNEL)


async def of_proxies(session: AsyncSession, proxy_ids: Sequence[UUID]) -> dict[UUID, HeartbeatRow]:
    """The last that was heard of some proxies, by id."""
    query = select(HeartbeatRow).where(_of(proxy_ids))
    return {row.proxy_id: row for row in (await session.execute(query)).scalars()}


class LastReport(NamedTuple):
    """What was heard of an exit last."""

    heard_at: datetime
    observation: dict[str, Any] | None
    open_requests: int
    month_bytes: int


async def last_reports(session: AsyncSession, proxy_ids: Sequence[UUID]) -> dict[UUID, LastReport]:
    """What was heard of some exits last, by id. For a session whose transaction has begun."""
    statement = f"SELECT proxy_id, {', '.join(LastReport._fields)} FROM heartbeat WHERE proxy_id = ANY($1)"  # noqa: S608 - names
    found = await fetch_in(session, statement, [*proxy_ids])
    return {row["proxy_id"]: LastReport(*(row[name] for name in LastReport._fields)) for row in found}


def _of(proxy_ids: Sequence[UUID]) -> ColumnElement[bool]:
    """One parameter, however many there are."""
    return col(HeartbeatRow.proxy_id) == func.any(bindparam(None, [*proxy_ids], type_=ARRAY(Uuid)))
