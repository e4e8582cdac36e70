"""The resources that a resource refers to, read from its bytes: the same for new bytes and for bytes accepted long ago."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from xds.translate import names
from xds.translate.gateway_filters import GATEWAY_FILTERS
from xds.translate.resource_ids import (
    EXIT_ROUTES,
    EXIT_TARGETS,
    GATEWAY_ROUTES,
    PARENT_CLUSTER,
    PARENT_ROUTES,
    ResourceId,
)

_CLUSTER: Final = re.compile(f"{names.POOL_CLUSTER_PATTERN}|{names.AGGREGATE_PATTERN}".encode())


@lru_cache(maxsize=256)  # each of the few resources in a rollout is asked about many times
def references(type_url: str, name: str, body: bytes) -> frozenset[ResourceId]:
    """Return the resources that have to exist for this one to work.

    Endpoints and secrets are left out: Envoy waits for them, and a rollout withholds neither.
    """
    found = {ResourceId(names.CLUSTER, match.decode()) for match in {*_CLUSTER.findall(body)}}
    if type_url == names.LISTENER:
        found |= _of_listener(name, body)
    elif type_url == names.ROUTE and name == names.EXIT_ROUTES:
        found.add(EXIT_TARGETS)
    return frozenset(found - {ResourceId(type_url, name)})


def named_clusters(type_url: str, name: str, body: bytes) -> frozenset[str]:
    """Return the names of the clusters that a resource refers to, those of a proxy's other scopes included."""
    found = {each.name for each in references(type_url, name, body) if each.type_url == names.CLUSTER}
    if ResourceId(type_url, name) == PARENT_ROUTES:
        found.add(PARENT_CLUSTER.name)  # of one exit alone, while the routes are those of its pool
    return frozenset(found)


def _of_listener(name: str, body: bytes) -> set[ResourceId]:
    if name == names.EXIT_LISTENER:
        return {PARENT_ROUTES if names.PARENT_ROUTES.encode() in body else EXIT_ROUTES}
    if not name.startswith(names.GATEWAY_LISTENER):
        return set()
    found = {GATEWAY_ROUTES}
    for each in GATEWAY_FILTERS:
        if each.name.encode() in body:
            found |= each.references
    return found
