"""Which resources a resource names, read from its bytes: the same for what is wanted and for what was accepted long ago."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from xds.translate import names
from xds.translate.group import ResourceId

_POOL_CLUSTER: Final = re.compile(names.POOL_CLUSTER_PATTERN.encode())
_ROUTES_OF: Final[Mapping[str, str]] = {
    names.GATEWAY_LISTENER: names.GATEWAY_ROUTES,
    names.EXIT_LISTENER: names.EXIT_ROUTES,
}


@lru_cache(maxsize=256)  # of the few that are being rolled out, each is asked about many times
def references(type_url: str, name: str, body: bytes) -> frozenset[ResourceId]:
    """What has to be there for this resource to work. Endpoints and secrets are not looked for: clients wait for them."""
    found = {ResourceId(names.CLUSTER, match.decode()) for match in {*_POOL_CLUSTER.findall(body)}}
    if type_url == names.LISTENER and name in _ROUTES_OF:
        found.add(ResourceId(names.ROUTE, _ROUTES_OF[name]))
    if type_url == names.ROUTE and name == names.EXIT_ROUTES:
        found.add(ResourceId(names.CLUSTER, names.TARGETS))
    return frozenset(found - {ResourceId(type_url, name)})
