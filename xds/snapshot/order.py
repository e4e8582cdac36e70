"""Make before break, as tables: the order in which types of resources are sent and removed.

Source: the xDS protocol, "Eventual consistency considerations", and rules 29, 32 and 33.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from xds.translate.names import CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE, SCOPED_ROUTE, SECRET

ADDITIONS: Final[Mapping[str, Sequence[str]]] = {
    # type: types that the client has to acknowledge before it is sent; types in the order of sending
    SECRET: (),  # clusters and listeners warm until they have it
    CLUSTER: (),
    ENDPOINT: (),  # must not wait for CDS: Envoy withholds that ACK until the clusters are warm, endpoints included
    EXTENSION: (CLUSTER,),
    LISTENER: (CLUSTER,),
    SCOPED_ROUTE: (CLUSTER,),
    ROUTE: (CLUSTER,),
}

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
them: an older list would offer dead exits, and a revoked secret has to go at once."""
