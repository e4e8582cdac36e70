"""The metrics of the xDS server, read when they are asked for (docs/metrics.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from model.entities import Role
from model.telemetry import metrics
from model.telemetry.metrics import Sample
from xds.server.counters import REFUSAL_REASONS
from xds.server.server import XdsServer
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import Snapshot
from xds.translate import names

TYPES: Final[Mapping[str, str]] = {
    names.CLUSTER: "cds",
    names.ENDPOINT: "eds",
    names.LISTENER: "lds",
    names.ROUTE: "rds",
    names.SCOPED_ROUTE: "srds",
    names.SECRET: "sds",
    names.EXTENSION: "ecds",
}
"""The label `type` of each type URL that is served."""


class XdsSamples:
    """Reads the metrics of one server. It remembers the sizes of snapshots that have not changed since the last time."""

    def __init__(self, server: XdsServer) -> None:
        self._server = server
        self._sizes: dict[tuple[str, str], _TableSize] = {}

    def __call__(self) -> Iterator[Sample]:
        counters, publisher = self._server.counters, self._server.publisher
        updates = [*publisher.pending_updates]
        roles = Counter(role for role, _ in {(each.identity.role, each.identity.proxy_id) for each in updates})
        yield from (Sample(metrics.XDS_PROXIES, roles[role], (role.value,)) for role in Role)
        yield Sample(metrics.XDS_STREAMS, len(updates))
        yield Sample(metrics.XDS_STREAMS_ADMITTED, counters.admitted)
        for reason in REFUSAL_REASONS:
            yield Sample(metrics.XDS_STREAMS_REFUSED, counters.refused[reason], (reason,))
        yield Sample(metrics.XDS_PENDING, sum(each.since is not None for each in updates))
        yield Sample(metrics.XDS_QUEUE, counters.queue_s)
        for type_url, label in TYPES.items():
            sizes = counters.response_bytes[type_url]
            yield Sample(metrics.XDS_PUSHES, sizes.count, (label,))
            yield Sample(metrics.XDS_RESPONSE_BYTES, sizes, (label,))
            yield Sample(metrics.XDS_ACKS, counters.acks[type_url], (label,))
            yield Sample(metrics.XDS_NACKS, counters.nacks[type_url], (label,))
            yield Sample(metrics.XDS_CONVERGENCE, counters.convergence_s[type_url], (label,))
        yield Sample(metrics.XDS_EXPIRED_NONCES, counters.expired_nonces)
        if publisher.world is not None:
            yield Sample(metrics.XDS_REVISION, publisher.world.revision)
        yield Sample(metrics.XDS_PUBLISHED_REVISIONS, counters.published_revisions)
        yield Sample(metrics.XDS_PUBLICATIONS, counters.publication_s.count)
        yield Sample(metrics.XDS_PUBLICATION, counters.publication_s)
        yield Sample(metrics.XDS_UPDATES, counters.updates)
        yield Sample(metrics.XDS_UPDATES_COALESCED, counters.coalesced)
        yield Sample(metrics.XDS_ROLLOUTS, len(publisher.rollouts_in_progress()))
        yield Sample(metrics.XDS_RELEASES, counters.released)
        yield Sample(metrics.LISTENING, self._server.feed.connected, ("xds",))
        yield from self._snapshot_samples(publisher.snapshots)

    def _snapshot_samples(self, snapshots: Iterable[Snapshot]) -> Iterator[Sample]:
        sizes: dict[tuple[str, str], _TableSize] = {}
        for snapshot in snapshots:
            for type_url, table in snapshot.resources.items():
                place = (snapshot.scope.key, type_url)
                known = self._sizes.get(place)
                sizes[place] = known if known is not None and known.table is table else _TableSize(table)
        self._sizes = sizes
        for type_url, label in TYPES.items():
            of_type = [size for (_, each), size in sizes.items() if each == type_url]
            yield Sample(metrics.XDS_SNAPSHOT_RESOURCES, sum(len(each.table) for each in of_type), (label,))
            yield Sample(metrics.XDS_SNAPSHOT_BYTES, sum(each.size_bytes for each in of_type), (label,))


class _TableSize:
    """The size of the resources of one type in a scope. A table that changes is another object."""

    __slots__ = ("size_bytes", "table")

    def __init__(self, table: Mapping[str, Resource]) -> None:
        self.table = table
        self.size_bytes = sum(len(each.body) for each in table.values())
