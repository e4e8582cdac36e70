"""Scopes: the parts of the configuration that are translated together, as functions of a World.

Proxies whose translation inputs are equal form a group and share every byte. An overlay holds what belongs to one proxy alone. A
scope lists its resources and translates one at a time, so that a change costs only what it affects (affected.py,
docs/architecture.md#cost-follows-the-change). Endpoints depend on a gateway's locality too. They are a scope of their own, so that
clusters, listeners and routes stay the same for the whole fleet.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar, Protocol
from uuid import UUID

from model.entities import Listener, Pool, Proxy, Role, ServerCertificate
from model.locality import Locality
from model.world import World
from xds.translate import names, resource_ids
from xds.translate.admitted_gateways import translate_admission_filter, translate_admitted_gateways
from xds.translate.aggregate_clusters import translate_aggregate_cluster
from xds.translate.certificates import translate_certificate
from xds.translate.clusters import translate_pool_cluster
from xds.translate.encoding import Message
from xds.translate.endpoints import translate_endpoints
from xds.translate.exit_listener import translate_exit_listener
from xds.translate.exit_routes import translate_exit_routes
from xds.translate.exit_targets import translate_exit_targets
from xds.translate.fleet_index import aggregates_of, pools_of, routes_of, tracing_of
from xds.translate.gateway_filters import ECDS_RESOURCES
from xds.translate.gateway_listener import translate_gateway_listener
from xds.translate.gateway_routes import translate_gateway_routes
from xds.translate.parent_cluster import translate_credentials, translate_parent
from xds.translate.parent_routes import translate_parent_routes
from xds.translate.resource_ids import (
    ADMISSION_FILTER,
    EXIT_LISTENER,
    EXIT_ROUTES,
    EXIT_TARGETS,
    GATEWAY_ROUTES,
    GATEWAYS_SECRET,
    PARENT_CLUSTER,
    PARENT_ROUTES,
    PARENT_SECRET,
    ResourceId,
)


class Scope(Protocol):
    """Some resources as a function of a World."""

    @property
    def key(self) -> str:
        """A unique name that is the same after a restart."""

    @property
    def types(self) -> AbstractSet[str]:
        """The type URLs of the resources that it may have."""

    @property
    def shared(self) -> bool:
        """True if several proxies are given it, so that a canary can try its changes."""

    def fleet(self, world: World) -> UUID | None:
        """Return the id of its fleet; None when the World does not have it."""

    def size(self, world: World) -> int:
        """Return the number of proxies that are given it."""

    def resources(self, world: World) -> AbstractSet[ResourceId]:
        """List all resources of the scope."""

    def translate(self, world: World, resource: ResourceId) -> Message | None:
        """Translate one resource; None when the World has none of this name."""


@dataclass(frozen=True, slots=True)
class GatewayGroup:
    """The gateways of a fleet: all resources that do not depend on their locality."""

    types: ClassVar[AbstractSet[str]] = frozenset(
        {names.CLUSTER, names.EXTENSION, names.LISTENER, names.ROUTE, names.SECRET}
    )
    shared: ClassVar[bool] = True

    fleet_id: UUID

    @property
    def key(self) -> str:
        return f"gateway/{self.fleet_id}"

    def fleet(self, world: World) -> UUID | None:  # noqa: ARG002 - a Scope's
        return self.fleet_id

    def size(self, world: World) -> int:
        return sum(world.gateways_at.get(self.fleet_id, {}).values())

    def resources(self, world: World) -> AbstractSet[ResourceId]:
        """List all resources. Certificates that no listener names are among them: gateways are sent those that they ask for."""
        found = {GATEWAY_ROUTES, *ECDS_RESOURCES}
        found |= {
            resource_ids.gateway_listener(world.listeners[each]) for each in world.listeners_of.get(self.fleet_id, ())
        }
        found |= {resource_ids.pool_cluster(pool) for pool in pools_of(world, self.fleet_id)}
        found |= resource_ids.aggregate_clusters(aggregates_of(world, self.fleet_id))
        found |= {resource_ids.certificate_secret(each.id) for each in world.certificates.values() if self._owns(each)}
        return found

    def translate(self, world: World, resource: ResourceId) -> Message | None:
        match resource.type_url:
            case names.ROUTE:
                return self._routes(world)
            case names.LISTENER:
                return self._listener(world, resource.name)
            case names.EXTENSION:
                discovered = ECDS_RESOURCES.get(resource)
                return discovered.translate(world, self.fleet_id) if discovered else None
            case names.SECRET:
                certificate = world.certificates.get(UUID(resource.name.removeprefix(names.CERTIFICATE_PREFIX)))
                return translate_certificate(certificate) if certificate and self._owns(certificate) else None
        if resource.name.startswith(names.AGGREGATE_PREFIX):
            pools = aggregates_of(world, self.fleet_id).get(resource.name)
            return translate_aggregate_cluster(pools) if pools else None
        pool = world.pools.get(names.pool_of_cluster(resource.name))
        return translate_pool_cluster(pool) if pool and self._owns(pool) else None

    def _owns(self, entity: Listener | Pool | ServerCertificate) -> bool:
        return entity.fleet_id == self.fleet_id

    def _routes(self, world: World) -> Message:
        pools, routes = pools_of(world, self.fleet_id), routes_of(world, self.fleet_id)
        tracing = tracing_of(world, self.fleet_id)
        return translate_gateway_routes(pools, routes, tracing.share if tracing else None)

    def _listener(self, world: World, name: str) -> Message | None:
        found = [world.listeners[each] for each in world.listeners_of.get(self.fleet_id, ())]
        listeners = [each for each in found if names.gateway_listener(each) == name]
        if not listeners:
            return None
        listener = min(listeners, key=attrgetter("id.int"))
        pool = world.pools.get(listener.pool_id) if listener.pool_id else None
        default = pool if pool and self._owns(pool) else None
        tracing = tracing_of(world, self.fleet_id)
        return translate_gateway_listener(listener, default, tracing.in_listeners if tracing else None)


@dataclass(frozen=True, slots=True)
class GatewayEndpoints:
    """The exits of a fleet in the order in which gateways at one locality prefer them (None: their locality is unknown)."""

    types: ClassVar[AbstractSet[str]] = frozenset({names.ENDPOINT})
    shared: ClassVar[bool] = True

    fleet_id: UUID
    locality: Locality | None

    @property
    def key(self) -> str:
        return f"endpoints/{self.fleet_id}" + (f"/{self.locality}" if self.locality else "")

    def fleet(self, world: World) -> UUID | None:  # noqa: ARG002 - a Scope's
        return self.fleet_id

    def size(self, world: World) -> int:
        return world.gateways_at.get(self.fleet_id, {}).get(self.locality, 0)

    def resources(self, world: World) -> AbstractSet[ResourceId]:
        return {resource_ids.pool_endpoints(pool) for pool in pools_of(world, self.fleet_id)}

    def translate(self, world: World, resource: ResourceId) -> Message | None:
        pool = world.pools.get(names.pool_of_cluster(resource.name))
        if pool is None or pool.fleet_id != self.fleet_id:
            return None
        exit_ids = world.exits_of.get(pool.id, frozenset())
        return translate_endpoints(pool, [world.exits[exit_id] for exit_id in exit_ids], self.locality)


@dataclass(frozen=True, slots=True)
class ExitGroup:
    """The exits of a pool that dial targets themselves."""

    types: ClassVar[AbstractSet[str]] = frozenset({names.CLUSTER, names.ROUTE})
    shared: ClassVar[bool] = True

    pool_id: UUID

    @property
    def key(self) -> str:
        return f"exit/{self.pool_id}"

    def fleet(self, world: World) -> UUID | None:
        return world.pools[self.pool_id].fleet_id if self.pool_id in world.pools else None

    def size(self, world: World) -> int:
        return sum(world.exits[each].parent is None for each in world.exits_of.get(self.pool_id, ()))

    def resources(self, world: World) -> AbstractSet[ResourceId]:
        return {EXIT_ROUTES, EXIT_TARGETS} if self.pool_id in world.pools else set()

    def translate(self, world: World, resource: ResourceId) -> Message | None:
        pool = world.pools.get(self.pool_id)
        if pool is None:
            return None
        return translate_exit_targets() if resource == EXIT_TARGETS else translate_exit_routes(pool)


@dataclass(frozen=True, slots=True)
class ParentProxyGroup:
    """The exits of a pool that have a parent. They are given no resource by which they could dial a target past it."""

    types: ClassVar[AbstractSet[str]] = frozenset({names.ROUTE})
    shared: ClassVar[bool] = True

    pool_id: UUID

    @property
    def key(self) -> str:
        return f"parent/{self.pool_id}"

    def fleet(self, world: World) -> UUID | None:
        return world.pools[self.pool_id].fleet_id if self.pool_id in world.pools else None

    def size(self, world: World) -> int:
        return sum(world.exits[each].parent is not None for each in world.exits_of.get(self.pool_id, ()))

    def resources(self, world: World) -> AbstractSet[ResourceId]:
        return {PARENT_ROUTES} if self.pool_id in world.pools else set()

    def translate(self, world: World, resource: ResourceId) -> Message | None:  # noqa: ARG002 - a Scope's
        pool = world.pools.get(self.pool_id)
        return translate_parent_routes(pool) if pool else None


@dataclass(frozen=True, slots=True)
class ExitOverlay:
    """The resources of one exit alone: its listener, the cluster with its egress address or parent, the parent's credentials."""

    types: ClassVar[AbstractSet[str]] = frozenset({names.CLUSTER, names.LISTENER, names.SECRET})
    shared: ClassVar[bool] = False

    exit_id: UUID

    @property
    def key(self) -> str:
        return f"overlay/{self.exit_id}"

    def fleet(self, world: World) -> UUID | None:
        return world.proxies[self.exit_id].fleet_id if self.exit_id in world.proxies else None

    def size(self, world: World) -> int:
        return int(self.exit_id in world.exits)

    def resources(self, world: World) -> AbstractSet[ResourceId]:
        exit_ = world.exits.get(self.exit_id)
        if exit_ is None:
            return set()
        if exit_.parent:
            secrets = set() if exit_.parent.password is None else {PARENT_SECRET}
            return {EXIT_LISTENER, PARENT_CLUSTER, *secrets}
        return {EXIT_LISTENER, EXIT_TARGETS} if exit_.egress_address else {EXIT_LISTENER}

    def translate(self, world: World, resource: ResourceId) -> Message | None:
        exit_ = world.exits.get(self.exit_id)
        if exit_ is None or resource not in self.resources(world):
            return None
        if resource == EXIT_LISTENER:
            pool = world.pools.get(exit_.pool_id)
            tracing = tracing_of(world, pool.fleet_id) if pool else None
            return translate_exit_listener(exit_, tracing.in_listeners if tracing else None)
        if exit_.parent is None:
            return translate_exit_targets(exit_.egress_address)
        if resource == PARENT_CLUSTER:
            return translate_parent(exit_.parent, exit_.egress_address)
        return translate_credentials(exit_.parent)


@dataclass(frozen=True, slots=True)
class ExitAdmission:
    """The gateways that the exits of a fleet admit: a secret and a filter that all of them share."""

    types: ClassVar[AbstractSet[str]] = frozenset({names.EXTENSION, names.SECRET})
    shared: ClassVar[bool] = True

    fleet_id: UUID

    @property
    def key(self) -> str:
        return f"admission/{self.fleet_id}"

    def fleet(self, world: World) -> UUID | None:  # noqa: ARG002 - a Scope's
        return self.fleet_id

    def size(self, world: World) -> int:
        return sum(len(world.exits_of.get(pool_id, ())) for pool_id in world.pools_of.get(self.fleet_id, ()))

    def resources(self, world: World) -> AbstractSet[ResourceId]:
        """List all resources. Without an authority there is no secret, and exits admit nobody."""
        return {ADMISSION_FILTER, GATEWAYS_SECRET} if world.authorities else {ADMISSION_FILTER}

    def translate(self, world: World, resource: ResourceId) -> Message | None:
        gateways = world.gateways_of.get(self.fleet_id, frozenset())
        if resource == ADMISSION_FILTER:
            return translate_admission_filter(self.fleet_id, gateways)
        if not world.authorities:
            return None
        return translate_admitted_gateways(self.fleet_id, gateways, world.authorities.values())


def scopes_of(proxy: Proxy, world: World) -> tuple[Scope, ...]:
    """Return the scopes that a proxy is given, a later one over an earlier one. Empty for an exit that the World does not have."""
    if proxy.role is Role.GATEWAY:
        return (GatewayGroup(proxy.fleet_id), GatewayEndpoints(proxy.fleet_id, proxy.locality))
    exit_ = world.exits.get(proxy.id)
    if exit_ is None:
        return ()
    group = ParentProxyGroup(exit_.pool_id) if exit_.parent else ExitGroup(exit_.pool_id)
    return (group, ExitAdmission(proxy.fleet_id), ExitOverlay(exit_.id))
