"""Make before break, as tables: the order in which types of resources are sent and removed.

Source: the xDS protocol, "Eventual consistency considerations", and rules 29, 32 and 33 of docs/xds-rules.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from xds.translate.names import CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE, SCOPED_ROUTE, SECRET
from xds.translate.resource_ids import ADMISSION_FILTER, USERS, ResourceId

ADDITIONS: Final[Sequence[str]] = (SECRET, CLUSTER, ENDPOINT, EXTENSION, LISTENER, SCOPED_ROUTE, ROUTE)
"""The types in the order of sending. Clusters and listeners warm until they have their secrets."""

AFTER_CLUSTERS: Final = frozenset({EXTENSION, LISTENER, SCOPED_ROUTE, ROUTE})
"""Types of which a resource waits until the client has the clusters that it names. Endpoints name clusters too, but must not wait
for them: Envoy withholds the ACK of CDS until the clusters are warm, endpoints included."""

WARMING_S: Final = 90
"""No cluster of a reconnecting Envoy warms for longer than this many seconds: 15 for its endpoints, then up to 60 for a health
check (`check_timeout_s`). Until it is warm, Envoy asks for no clusters on a new stream."""

REMOVALS: Final[Mapping[str, Sequence[str]]] = {
    # type: types that may refer to it; it is removed once those have nothing due, in flight, rejected or to remove
    SCOPED_ROUTE: (LISTENER,),
    ROUTE: (LISTENER, SCOPED_ROUTE),
    LISTENER: (),
    CLUSTER: (LISTENER, ROUTE, EXTENSION),
    ENDPOINT: (CLUSTER,),
    SECRET: (LISTENER, CLUSTER),
    # not EXTENSION: an ECDS resource is never removed actively (rule 29)
}

FOLLOWED_BY: Final[Mapping[str, str]] = {
    # a changed cluster warms until its endpoints arrive again, even unchanged (rule 33)
    CLUSTER: ENDPOINT,
}

WILDCARD_BY_DEFAULT: Final = frozenset({LISTENER, CLUSTER})
"""Types for which a first request without names means all of them (legacy wildcard, rule 5)."""

FULL_STATE: Final = frozenset({LISTENER, CLUSTER})
"""Types whose state-of-the-world responses are complete: the client deletes resources that one lacks (rule 14)."""

ROLLED_OUT: Final = frozenset({CLUSTER, EXTENSION, LISTENER, ROUTE, SCOPED_ROUTE})
"""Types whose changes canaries try first, and whose accepted bytes are kept to fall back to. Endpoints and secrets are not among
them: an older list would offer dead exits, and a revoked secret has to go at once. For the same reason users and the
gateways that exits admit are not, though they are extensions: ask `is_rolled_out`."""


_AT_ONCE: Final = frozenset({ADMISSION_FILTER, *USERS})


def is_rolled_out(resource: ResourceId) -> bool:
    """Return whether canaries try the changes of a resource first."""
    return resource.type_url in ROLLED_OUT and resource not in _AT_ONCE
