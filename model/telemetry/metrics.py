"""All metrics of the control plane: their names, kinds, meanings and labels. docs/metrics.md lists the same ones; a test compares.

No label has more values than operators have pools: no proxy, exit, user, address or path is a label (docs/decisions/0049-metrics.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from model.telemetry.distribution import Distribution


class MetricKind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A family of time series. The name of a counter ends in `_total`, as its series do."""

    name: str
    kind: MetricKind
    meaning: str
    labels: tuple[str, ...] = ()


class Sample(NamedTuple):
    """The value of one series now. `labels` has a value for each label of the metric, in its order."""

    metric: Metric
    value: float | Distribution
    labels: tuple[str, ...] = ()


SampleSource = Callable[[], Iterable[Sample]]
"""Reads the present values of some metrics. It neither waits nor writes."""
_declared: list[Metric] = []


def _declare(kind: MetricKind, name: str, meaning: str, *labels: str) -> Metric:
    metric = Metric(f"exitplane_{name}", kind, meaning, labels)
    _declared.append(metric)
    return metric


def _counter(name: str, meaning: str, *labels: str) -> Metric:
    return _declare(MetricKind.COUNTER, f"{name}_total", meaning, *labels)


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return _declare(MetricKind.GAUGE, name, meaning, *labels)


def _histogram(name: str, meaning: str, *labels: str) -> Metric:
    return _declare(MetricKind.HISTOGRAM, name, meaning, *labels)


# -- the replica

BUILD_INFO: Final = _gauge("build_info", "1, with the versions of Exitplane and Python.", "version", "python")
CONNECTIONS: Final = _gauge(
    "connections", "Open connections of a listener: `waiting` ones have no authenticated request.", "listener", "state"
)
CONNECTIONS_CLOSED: Final = _counter(
    "connections_closed",
    "Connections of strangers that were closed, by the limit that they met.",
    "listener",
    "reason",
)
CERTIFICATE_EXPIRY: Final = _gauge(
    "certificate_expiry_timestamp_seconds",
    "When the first of the certificates in use expires (Unix time): the `authority` that issues, those of `listener`s, and those of `proxy`s with heartbeats.",
    "kind",
)
SPANS: Final = _counter("traces_spans", "Spans that were `exported`, `failed` to be, or were `dropped`.", "result")

# -- the xDS server

XDS_PROXIES: Final = _gauge("xds_proxies", "Proxies with a stream at this replica.", "role")
XDS_STREAMS: Final = _gauge("xds_streams", "Open streams at this replica.")
XDS_STREAMS_ADMITTED: Final = _counter("xds_streams_admitted", "Streams that were admitted.")
XDS_STREAMS_REFUSED: Final = _counter("xds_streams_refused", "Streams that were refused.", "reason")
XDS_PENDING: Final = _gauge("xds_pending_streams", "Streams with an update that is not sent yet: the queue.")
XDS_QUEUE: Final = _histogram("xds_queue_seconds", "Time from publication until a stream takes the update.")
XDS_PUSHES: Final = _counter("xds_pushes", "Responses that were sent.", "type")
XDS_RESPONSE_BYTES: Final = _histogram("xds_response_bytes", "Sizes of the responses that were sent.", "type")
XDS_ACKS: Final = _counter("xds_acks", "Responses that proxies accepted.", "type")
XDS_NACKS: Final = _counter("xds_nacks", "Responses that proxies rejected.", "type")
XDS_EXPIRED_NONCES: Final = _counter("xds_expired_nonces", "Requests that answer a response with an old nonce.")
XDS_CONVERGENCE: Final = _histogram(
    "xds_convergence_seconds", "Time from the commit of a change to its ACK, by each proxy that it concerns.", "type"
)
XDS_REVISION: Final = _gauge("xds_revision", "Revision of the World that this replica publishes.")
XDS_PUBLISHED_REVISIONS: Final = _counter("xds_published_revisions", "Revisions that were published.")
XDS_PUBLICATIONS: Final = _counter(
    "xds_publications", "Publications; revisions above this number were published together with others."
)
XDS_PUBLICATION: Final = _histogram("xds_publication_seconds", "Time to translate and publish changes.")
XDS_UPDATES: Final = _counter("xds_updates", "Updates that were given to streams.")
XDS_UPDATES_COALESCED: Final = _counter(
    "xds_updates_coalesced", "Updates that were merged into one that a stream had not taken yet."
)
XDS_SNAPSHOT_RESOURCES: Final = _gauge("xds_snapshot_resources", "Resources that this replica serves.", "type")
XDS_SNAPSHOT_BYTES: Final = _gauge("xds_snapshot_bytes", "Their encoded size.", "type")
XDS_ROLLOUTS: Final = _gauge("xds_rollouts_in_progress", "Groups with change-sets that not all proxies have.")
XDS_RELEASES: Final = _counter("xds_change_sets_released", "Change-sets that this replica released to all proxies.")

# -- the API

API_REQUESTS: Final = _histogram(
    "api_request_seconds",
    "Time until the response begins, by the template of the route (`none`: no route) and the class of the status.",
    *("method", "route", "status"),
)
API_OPEN: Final = _gauge("api_open_requests", "Requests without a complete response, event streams among them.")
HEARTBEATS_PENDING: Final = _gauge("heartbeats_pending", "Proxies whose newest heartbeat is not stored yet.")
HEARTBEATS: Final = _counter("heartbeats_stored", "Heartbeats that were stored.")
HEARTBEAT_FLUSH: Final = _histogram("heartbeat_flush_seconds", "Time to store a batch of heartbeats.")

# -- PostgreSQL

DATABASE_UP: Final = _gauge("database_up", "1 if PostgreSQL answered this scrape.")
DATABASE_POOL: Final = _gauge("database_pool_connections", "Connections of the pool, by state.", "state")
DATABASE_POOL_SIZE: Final = _gauge("database_pool_size", "The most connections that the pool opens.")
LISTENING: Final = _gauge("listen_connected", "1 while the connection that hears NOTIFY is open.", "listener")
REVISION: Final = _gauge("revision", "The newest committed revision.")
INGEST_AGE: Final = _gauge(
    "ingest_watermark_age_seconds", "Time since a replica last received and stored heartbeats without a break."
)
GATEWAYS: Final = _gauge(
    "gateways",
    "Gateways by fleet: `heard` ones sent a heartbeat within EXITPLANE_SILENCE_TIMEOUT_S, `silent` ones did not.",
    *("fleet", "state"),
)
EXITS: Final = _gauge("exits", "Exits by fleet, pool and state.", "fleet", "pool", "state")
EXIT_TRAFFIC: Final = _gauge(
    "exit_month_bytes", "Traffic of a pool's exits in this month (UTC), both directions.", "fleet", "pool"
)
EXIT_OPEN_REQUESTS: Final = _gauge(
    "exit_open_requests", "Open requests and tunnels of a pool's exits.", "fleet", "pool"
)
EXIT_OBSERVATIONS: Final = _gauge(
    "exit_observations", "Exits by the result of the last observation of where their traffic comes out.", "result"
)

# -- the keeper

KEEPER_LEADER: Final = _gauge("keeper_leader", "1 if this replica holds the keeper's lease.")
KEEPER_ROUNDS: Final = _histogram("keeper_round_seconds", "Time of a round of the keeper.")
KEEPER_LAST_ROUND: Final = _gauge(
    "keeper_last_round_timestamp_seconds", "When the keeper's last round ended here (Unix time); 0 for never."
)
EXIT_TRANSITIONS: Final = _counter("exit_transitions", "Changes of exits' states by this replica's keeper.", "state")

# -- messages

MESSAGE_EVENTS: Final = _counter("message_events", "Events that messages of this replica told of.", "event")
MESSAGE_ATTEMPTS: Final = _counter(
    "message_attempts", "Attempts to deliver a message: `sent`, `retried` later, or `failed` for good.", "result"
)

METRICS: Final[Sequence[Metric]] = tuple(_declared)
