"""Which resources a resource names, read from its bytes: the same for what is wanted and for what was accepted long ago."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from xds.translate import names
from xds.translate.scopes import ResourceId

_CLUSTER: Final = re.compile(f"{names.POOL_CLUSTER_PATTERN}|{names.AGGREGATE_PATTERN}".encode())


@lru_cache(maxsize=256)  # of the few that are being rolled out, each is asked about many times
def references(type_url: str, name: str, body: bytes) -> frozenset[ResourceId]:
    """What has to be there for this resource to work.

    Endpoints and secrets are not looked for: clients wait for them, and neither is kept back by a rollout.
    """
    found = {ResourceId(names.CLUSTER, match.decode()) for match in {*_CLUSTER.findall(body)}}
    if type_url == names.LISTENER and name == names.EXIT_LISTENER:
        with_parent = names.PARENT_ROUTES.encode() in body
        found.add(ResourceId(names.ROUTE, names.PARENT_ROUTES if with_parent else names.EXIT_ROUTES))
    elif type_url == names.LISTENER and name.startswith(names.GATEWAY_LISTENER):
        found.add(ResourceId(names.ROUTE, names.GATEWAY_ROUTES))
        if names.GROUPS_FILTER.encode() in body:
            found.add(ResourceId(names.EXTENSION, names.GROUPS_FILTER))
    if type_url == names.ROUTE and name == names.EXIT_ROUTES:
        found.add(ResourceId(names.CLUSTER, names.TARGETS))
    return frozenset(found - {ResourceId(type_url, name)})
