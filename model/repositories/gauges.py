"""Gauges of the whole installation, which PostgreSQL knows: one statement for each scrape (docs/metrics.md)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from model.database import Database, DatabaseUnreachable
from model.exit_states import ExitState
from model.telemetry import metrics
from model.telemetry.metrics import Sample

POOLS_MAX: Final = 500
"""Pools that have series of their own, the first by name. The others share those of `OTHER_POOLS`."""
OTHER_POOLS: Final = "_other"
"""No name of a pool, as these begin with a letter or digit."""
OBSERVATIONS: Final = ("verified", "wrong_country", "unknown_country", "conflict", "leaking", "none")
"""Results of the last observation of where an exit's traffic comes out; `none`: its agent observes nothing."""
_TIMEOUT_S: Final = 2.0
_QUERY: Final = """
    WITH heard AS (
        SELECT proxy_id FROM heartbeat WHERE heard_at >= clock_timestamp() - make_interval(secs => $1)
    ), gateways AS (
        SELECT fleet.name AS fleet, count(heard.proxy_id) AS heard, count(*) - count(heard.proxy_id) AS silent
        FROM proxy JOIN fleet ON fleet.id = proxy.fleet_id LEFT JOIN heard ON heard.proxy_id = proxy.id
        WHERE proxy.role = 'gateway' GROUP BY fleet.name
    ), certificates AS (
        SELECT 'listener' AS kind, min(expires_at) AS expires_at FROM server_certificate
        UNION ALL SELECT 'proxy', min(newest) FROM (
            SELECT max(expires_at) AS newest FROM certificate JOIN heard USING (proxy_id)
            WHERE revoked_at IS NULL GROUP BY proxy_id
        ) AS of_proxies
    ), reported AS (
        SELECT fleet.name AS fleet, pool.name AS pool, exit.state, exit.id,
            coalesce(heartbeat.open_requests, 0) AS open_requests,
            CASE WHEN date_trunc('month', heartbeat.heard_at, 'UTC') = date_trunc('month', now(), 'UTC')
                THEN heartbeat.month_bytes ELSE 0 END AS month_bytes,
            CASE
                WHEN heartbeat.observation IS NULL THEN 'none'
                WHEN coalesce(heartbeat.observation ->> 'leak', '') <> '' THEN 'leaking'
                WHEN heartbeat.observation ->> 'country' IS NULL THEN 'unknown_country'
                WHEN heartbeat.observation ->> 'country' <> pool.country THEN 'wrong_country'
                WHEN coalesce(heartbeat.observation ->> 'conflict', '') <> '' THEN 'conflict'
                ELSE 'verified'
            END AS observed
        FROM pool JOIN fleet ON fleet.id = pool.fleet_id
            LEFT JOIN exit ON exit.pool_id = pool.id
            LEFT JOIN heartbeat ON heartbeat.proxy_id = exit.id
    ), grouped AS (
        SELECT fleet, pool, state, observed, count(id) AS exits,
            sum(open_requests)::bigint AS open_requests, sum(month_bytes)::bigint AS month_bytes
        FROM reported GROUP BY fleet, pool, state, observed
    )
    SELECT (SELECT value FROM revision) AS revision,
        (SELECT extract(epoch FROM clock_timestamp() - max(heard_until))::float8 FROM ear) AS ingest_age_s,
        (SELECT jsonb_agg(gateways ORDER BY fleet) FROM gateways) AS gateways,
        (SELECT jsonb_object_agg(kind, extract(epoch FROM expires_at)) FROM certificates WHERE expires_at IS NOT NULL)
            AS certificates,
        grouped.*
    FROM (VALUES (1)) AS always LEFT JOIN grouped ON true
    ORDER BY fleet, pool
"""


async def read(database: Database, silence_timeout_s: float) -> Sequence[Sample]:
    """Read the gauges. Without PostgreSQL only `exitplane_database_up` has a sample, which is 0."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            rows = await database.fetch(_QUERY, silence_timeout_s)
    except (DatabaseUnreachable, TimeoutError):
        return [Sample(metrics.DATABASE_UP, 0)]
    return [Sample(metrics.DATABASE_UP, 1), *samples_of(rows)]


def samples_of(rows: Sequence[Mapping[str, Any]]) -> Iterator[Sample]:
    """Make samples of the rows of the statement, of which there is at least one."""
    yield Sample(metrics.REVISION, rows[0]["revision"])
    if rows[0]["ingest_age_s"] is not None:
        yield Sample(metrics.INGEST_AGE, rows[0]["ingest_age_s"])
    for kind, expires_at in (rows[0]["certificates"] or {}).items():
        yield Sample(metrics.CERTIFICATE_EXPIRY, expires_at, (kind,))
    yield from _gateway_samples(rows[0]["gateways"] or [])
    states: dict[tuple[str, str], Counter[str]] = {}
    traffic: Counter[tuple[str, str]] = Counter()
    requests: Counter[tuple[str, str]] = Counter()
    observations: Counter[str] = Counter()
    for row in rows:
        if row["fleet"] is None:
            continue  # there is no pool
        place = (row["fleet"], row["pool"])
        if place not in states and len(states) >= POOLS_MAX:
            place = (OTHER_POOLS, OTHER_POOLS)
        count = states.setdefault(place, Counter())
        if row["state"] is not None:
            count[row["state"]] += row["exits"]
            observations[row["observed"]] += row["exits"]
        traffic[place] += row["month_bytes"]
        requests[place] += row["open_requests"]
    for place, count in states.items():
        yield from (Sample(metrics.EXITS, count[state], (*place, state.value)) for state in ExitState)
        yield Sample(metrics.EXIT_TRAFFIC, traffic[place], place)
        yield Sample(metrics.EXIT_OPEN_REQUESTS, requests[place], place)
    yield from (Sample(metrics.EXIT_OBSERVATIONS, observations[each], (each,)) for each in OBSERVATIONS)


def _gateway_samples(fleets: Sequence[Mapping[str, Any]]) -> Iterator[Sample]:
    counts: dict[str, Counter[str]] = {}
    for row in fleets:
        fleet = row["fleet"] if row["fleet"] in counts or len(counts) < POOLS_MAX else OTHER_POOLS
        counts.setdefault(fleet, Counter()).update({state: row[state] for state in ("heard", "silent")})
    for fleet, count in counts.items():
        yield from (Sample(metrics.GATEWAYS, count[state], (fleet, state)) for state in ("heard", "silent"))
