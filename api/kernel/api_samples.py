"""The metrics of the API, read when they are asked for (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy.pool import QueuePool

from api.kernel.context import ApiContext
from model.connection_table import CloseReason
from model.telemetry import metrics
from model.telemetry.metrics import Sample


def api_samples(context: ApiContext) -> Iterator[Sample]:
    """Read the metrics of one replica of the API, with those of its listeners and of its connections to PostgreSQL."""
    requests, sink = context.request_counters, context.heartbeat_sink
    for labels, latency_s in requests.latency_s.items():
        yield Sample(metrics.API_REQUESTS, latency_s, labels)
    yield Sample(metrics.API_OPEN, requests.open)
    yield Sample(metrics.HEARTBEATS_PENDING, sink.pending_count)
    yield Sample(metrics.HEARTBEATS, sink.stored)
    yield Sample(metrics.HEARTBEAT_FLUSH, sink.flush_s)
    for name, table in context.connection_tables.items():
        yield Sample(metrics.CONNECTIONS, table.waiting, (name, "waiting"))
        yield Sample(metrics.CONNECTIONS, table.open - table.waiting, (name, "serving"))
        for reason in CloseReason:
            yield Sample(metrics.CONNECTIONS_CLOSED, table.closed[reason], (name, reason.value))
    pool = context.database.engine.pool
    if isinstance(pool, QueuePool):
        yield Sample(metrics.DATABASE_POOL_SIZE, pool.size())
        yield Sample(metrics.DATABASE_POOL, pool.checkedout(), ("used",))
        yield Sample(metrics.DATABASE_POOL, pool.checkedin(), ("idle",))
