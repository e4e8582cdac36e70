"""The type URL and name of each resource within its scope."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from model.entities import USER_SHARDS, Listener, Pool
from xds.translate import names


@dataclass(frozen=True, slots=True)
class ResourceId:
    """The type URL and name of a resource."""

    type_url: str
    name: str


GATEWAY_ROUTES: Final = ResourceId(names.ROUTE, names.GATEWAY_ROUTES)
USER_GROUPS: Final = ResourceId(names.EXTENSION, names.GROUPS_FILTER)
USERS: Final = tuple(ResourceId(names.EXTENSION, names.user_shard(number)) for number in range(USER_SHARDS))
EXIT_LISTENER: Final = ResourceId(names.LISTENER, names.EXIT_LISTENER)
EXIT_ROUTES: Final = ResourceId(names.ROUTE, names.EXIT_ROUTES)
EXIT_TARGETS: Final = ResourceId(names.CLUSTER, names.TARGETS)
PARENT_ROUTES: Final = ResourceId(names.ROUTE, names.PARENT_ROUTES)
PARENT_CLUSTER: Final = ResourceId(names.CLUSTER, names.PARENT)
ADMISSION_FILTER: Final = ResourceId(names.EXTENSION, names.ADMISSION_FILTER)
GATEWAYS_SECRET: Final = ResourceId(names.SECRET, names.GATEWAYS_SECRET)
PARENT_SECRET: Final = ResourceId(names.SECRET, names.PARENT_SECRET)


def gateway_listener(listener: Listener) -> ResourceId:
    return ResourceId(names.LISTENER, names.gateway_listener(listener))


def pool_cluster(pool: Pool) -> ResourceId:
    return ResourceId(names.CLUSTER, names.pool_cluster(pool))


def pool_endpoints(pool: Pool) -> ResourceId:
    return ResourceId(names.ENDPOINT, names.pool_cluster(pool))


def aggregate_clusters(cluster_names: Iterable[str]) -> frozenset[ResourceId]:
    return frozenset(ResourceId(names.CLUSTER, name) for name in cluster_names)


def certificate_secret(certificate_id: UUID) -> ResourceId:
    return ResourceId(names.SECRET, names.certificate_secret(certificate_id))
