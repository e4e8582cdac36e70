"""Facts that message rules are about, read from where they are recorded: the change log, exits, heartbeats, sync status, rollouts, leases.

The sessions are of a snapshot whose transaction has begun.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from model.database import fetch_in

Row = Mapping[str, Any]
CHANGES_AT_ONCE: Final = 5_000
_CHANGES: Final = """
    SELECT id, key::uuid AS exit_id, detail -> 'changes' -> 'state' ->> 0 AS before, detail -> 'changes' -> 'state' ->> 1 AS after
    FROM change WHERE id > $1 AND kind = 'exit' AND action = 'changed' AND jsonb_exists(detail -> 'changes', 'state')
    ORDER BY id LIMIT $2
"""
_EXITS: Final = """
    SELECT exit.id, exit.name, pool.name AS pool, fleet.name AS fleet, exit.state, exit.state_reason AS reason, exit.capped
    FROM exit JOIN pool ON pool.id = exit.pool_id JOIN fleet ON fleet.id = pool.fleet_id
    WHERE exit.state IN ('unreachable', 'lost', 'leaking') OR exit.capped OR exit.id = ANY($1)
"""
_LOADS: Final = """
    SELECT exit.id, heartbeat.carried_bytes, heartbeat.open_requests
    FROM exit JOIN heartbeat ON heartbeat.proxy_id = exit.id WHERE exit.state IN ('healthy', 'degraded')
"""
_EGRESSES: Final = """
    SELECT exit.id, heartbeat.observation ->> 'address' AS address, heartbeat.observation ->> 'country' AS country,
        known.address AS former_address, known.country AS former_country
    FROM exit JOIN heartbeat ON heartbeat.proxy_id = exit.id LEFT JOIN known_egress known ON known.exit_id = exit.id
    WHERE heartbeat.observation ->> 'address' IS NOT NULL
        AND (known.exit_id IS NULL OR known.address <> heartbeat.observation ->> 'address'
            OR known.country IS DISTINCT FROM coalesce(heartbeat.observation ->> 'country', known.country))
"""
_PROXIES: Final = """
    SELECT proxy.id, proxy.name, proxy.role, fleet.name AS fleet, rejected.detail
    FROM proxy JOIN fleet ON fleet.id = proxy.fleet_id
        LEFT JOIN (
            SELECT proxy_id, min(detail) AS detail FROM sync
            WHERE rejected_revision > coalesce(accepted_revision, 0) GROUP BY proxy_id
        ) AS rejected ON rejected.proxy_id = proxy.id
    WHERE rejected.proxy_id IS NOT NULL OR proxy.id = ANY($1)
"""
_FLEETS: Final = """
    WITH rolled_back AS (
        SELECT rollout.fleet_id, min(change_set.value ->> 'reason') AS reason
        FROM rollout CROSS JOIN jsonb_array_elements(rollout.change_sets) AS change_set
        WHERE (change_set.value ->> 'rejected')::boolean GROUP BY rollout.fleet_id
    )
    SELECT fleet.id, fleet.name, rolled_back.reason
    FROM fleet LEFT JOIN rolled_back ON rolled_back.fleet_id = fleet.id
    WHERE rolled_back.fleet_id IS NOT NULL OR fleet.id = ANY($1)
"""
_CERTIFICATES: Final = """
    SELECT certificate.id, certificate.name, fleet.name AS fleet, certificate.expires_soon, certificate.expires_at
    FROM server_certificate certificate JOIN fleet ON fleet.id = certificate.fleet_id
    WHERE certificate.expires_soon OR certificate.id = ANY($1)
"""
_CONTROL_PLANE: Final = """
    SELECT
        EXISTS (
            SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = $1 AND objsubid = 1
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        ) AS has_keeper,
        (SELECT count(*) FROM replica WHERE seen_at < clock_timestamp() - make_interval(secs => $2)) AS silent_replicas,
        (SELECT extract(epoch FROM clock_timestamp() - max(heard_until))::float8 FROM ear) AS ingest_age_s
"""


@dataclass(frozen=True, slots=True)
class StateChange:
    """A change of an exit's state, from the change log."""

    exit_id: UUID
    before: str | None
    after: str


async def state_changes(session: AsyncSession, after: int) -> tuple[Sequence[StateChange], int]:
    """Return the changes of exits' states after a change, and the id up to which they are complete."""
    rows = await fetch_in(session, _CHANGES, after, CHANGES_AT_ONCE)
    found = [StateChange(row["exit_id"], row["before"], row["after"]) for row in rows]
    return found, rows[-1]["id"] if len(rows) == CHANGES_AT_ONCE else await newest_change(session)


async def newest_change(session: AsyncSession) -> int:
    """Return the id of the newest change; 0 for none."""
    (row,) = await fetch_in(session, "SELECT coalesce(max(id), 0) AS id FROM change")
    return int(row["id"])


async def exits(session: AsyncSession, besides: Collection[UUID]) -> Sequence[Row]:
    """Return the exits with a fault, and those `besides` that exist: id, names, state, reason, capped."""
    return await fetch_in(session, _EXITS, [*besides])


async def loads(session: AsyncSession) -> Sequence[Row]:
    """Return the traffic of serving exits: id, carried_bytes, open_requests."""
    return await fetch_in(session, _LOADS)


async def new_egresses(session: AsyncSession) -> Sequence[Row]:
    """Return the exits whose address or country differs from the known one: both, and the former ones (None: not known)."""
    return await fetch_in(session, _EGRESSES)


async def proxies(session: AsyncSession, besides: Collection[UUID]) -> Sequence[Row]:
    """Return the proxies that reject their configuration, with Envoy's message, and those `besides` that exist."""
    return await fetch_in(session, _PROXIES, [*besides])


async def fleets(session: AsyncSession, besides: Collection[UUID]) -> Sequence[Row]:
    """Return the fleets in which proxies rejected a change-set that others did not get, and those `besides` that exist."""
    return await fetch_in(session, _FLEETS, [*besides])


async def certificates(session: AsyncSession, besides: Collection[UUID]) -> Sequence[Row]:
    """Return the certificates of listeners that expire soon, and those `besides` that exist."""
    return await fetch_in(session, _CERTIFICATES, [*besides])


async def control_plane(session: AsyncSession, keeper_lease: int, silent_after_s: float) -> Row:
    """Return whether a replica holds the keeper's lease, the number of silent replicas, and the age of the ingest watermark."""
    (row,) = await fetch_in(session, _CONTROL_PLANE, keeper_lease, silent_after_s)
    return row


async def pool_states(session: AsyncSession) -> Sequence[Row]:
    """Return the numbers of exits by fleet, pool and state, in this order; the state is None for a pool without exits."""
    return await fetch_in(
        session,
        """
        SELECT fleet.name AS fleet, pool.name AS pool, exit.state, count(exit.id) AS exits
        FROM pool JOIN fleet ON fleet.id = pool.fleet_id LEFT JOIN exit ON exit.pool_id = pool.id
        GROUP BY fleet.name, pool.name, exit.state ORDER BY fleet.name, pool.name, exit.state
        """,
    )


async def revision(session: AsyncSession) -> int:
    """Return the newest revision."""
    (row,) = await fetch_in(session, "SELECT value FROM revision")
    return int(row["value"])
