"""Which resources a group of proxies has, what each is made of, and which of them a change touches.

Proxies whose translation inputs are equal form a group and share every byte; what belongs to one proxy alone is its
overlay. The shape is the same for both: a `Scope` names its resources and translates one at a time, so that a change costs
what it touches (docs/architecture.md#cost-follows-the-change). What of a group depends on more inputs than the rest is a
scope of its own: endpoints depend on where a gateway stands, so that clusters, listeners and routes stay one for the whole fleet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar, Protocol
from uuid import UUID

from model.entities import Entity, Exit, Listener, Pool, Proxy, ResourceKey, Role, Route, ServerCertificate, User
from model.locality import Locality
from model.world import Change, Kind, World
from xds.translate import names
from xds.translate.aggregate_clusters import translate_aggregate_cluster
from xds.translate.certificates import translate_certificate
from xds.translate.client_intent import understood_name
from xds.translate.clusters import translate_pool_cluster
from xds.translate.encoding import Message
from xds.translate.endpoints import translate_endpoints
from xds.translate.exit_listener import translate_exit_listener
from xds.translate.exit_routes import translate_exit_routes
from xds.translate.exit_targets import translate_exit_targets
from xds.translate.fleet_index import aggregates_of, groups_asked_for, groups_by_user, pools_of, routes_of
from xds.translate.gateway_listener import translate_gateway_listener
from xds.translate.gateway_routes import translate_gateway_routes
from xds.translate.parent_cluster import translate_credentials, translate_parent
from xds.translate.parent_routes import translate_parent_routes
from xds.translate.user_groups_filter import translate_groups


@dataclass(frozen=True, slots=True)
class ResourceId:
    """A resource within a scope."""

    type_url: str
    name: str


class Scope(Protocol):
    """Some resources as a function of a World."""

    @property
    def key(self) -> str:
        """What tells this scope from all others, and stays across restarts."""

    @property
    def types(self) -> AbstractSet[str]:
        """The type URLs of what it may hold."""

    @property
    def shared(self) -> bool:
        """Whether several proxies are given it, so that one of them can try its changes first."""

    def fleet(self, world: World) -> UUID | None:
        """The fleet that it is of; None when the World knows it no more."""

    def resources(self, world: World) -> AbstractSet[ResourceId]:
        """All that the scope holds."""

    def translate(self, world: World, resource: ResourceId) -> Message | None:
        """One resource; None when the World has no such thing any more."""

    def touched(self, change: Change, old: World, new: World) -> Iterable[ResourceId]:
        """What `change` adds, changes or removes here."""


_GATEWAY_ROUTES = ResourceId(names.ROUTE, names.GATEWAY_ROUTES)
_GROUPS = ResourceId(names.EXTENSION, names.GROUPS_FILTER)
_EXIT_LISTENER = ResourceId(names.LISTENER, names.EXIT_LISTENER)
_EXIT_ROUTES = ResourceId(names.ROUTE, names.EXIT_ROUTES)
_TARGETS = ResourceId(names.CLUSTER, names.TARGETS)
_PARENT_ROUTES = ResourceId(names.ROUTE, names.PARENT_ROUTES)
_PARENT = ResourceId(names.CLUSTER, names.PARENT)
_PARENT_SECRET = ResourceId(names.SECRET, names.PARENT_SECRET)


@dataclass(frozen=True, slots=True)
class GatewayGroup:
    """The gateways of a fleet: all that they share wherever they stand."""

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

    def resources(self, world: World) -> AbstractSet[ResourceId]:
        """Certificates are here whether a listener names them or not: a gateway is sent those that it asks for."""
        found = {_GATEWAY_ROUTES, _GROUPS}
        found |= {_listener(world.listeners[each]) for each in world.listeners_of.get(self.fleet_id, ())}
        found |= {_cluster(pool) for pool in pools_of(world, self.fleet_id)}
        found |= _aggregates(aggregates_of(world, self.fleet_id))
        found |= {_secret(each) for each in world.certificates.values() if each.fleet_id == self.fleet_id}
        return found

    def translate(self, world: World, resource: ResourceId) -> Message | None:
        match resource.type_url:
            case names.ROUTE:
                return self._routes(world)
            case names.LISTENER:
                return self._listener(world, resource.name)
            case names.EXTENSION:
                return translate_groups(groups_by_user(world, self.fleet_id))
            case names.SECRET:
                certificate = world.certificates.get(UUID(resource.name.removeprefix(names.CERTIFICATE_PREFIX)))
                return translate_certificate(certificate) if certificate and self._owns(certificate) else None
        if resource.name.startswith(names.AGGREGATE_PREFIX):
            pools = aggregates_of(world, self.fleet_id).get(resource.name)
            return translate_aggregate_cluster(pools) if pools else None
        pool = world.pools.get(names.pool_of_cluster(resource.name))
        return translate_pool_cluster(pool) if pool and self._owns(pool) else None

    def touched(self, change: Change, old: World, new: World) -> Iterable[ResourceId]:
        found: set[ResourceId] = set(_of_rollout(self.key, change))
        before = _before(change, old)
        for value in (before, change.value):
            match value:
                case Listener() if self._owns(value):
                    found.add(_listener(value))
                case Pool() if self._owns(value):
                    found |= {_cluster(value), _GATEWAY_ROUTES}
                    found |= self._new_aggregates(old, new)
                    found |= self._defaulting_to(value, new)
                case Route() if self._owns(value):
                    found.add(_GATEWAY_ROUTES)
                    found |= self._new_aggregates(old, new)
                    if groups_asked_for(old, self.fleet_id) != groups_asked_for(new, self.fleet_id):
                        found.add(_GROUPS)
                case User() if self._owns(value) and understood_name(value.group) in groups_asked_for(
                    new, self.fleet_id
                ):
                    found.add(_GROUPS)
                case ServerCertificate() if self._owns(value):
                    found.add(_secret(value))
        return found

    def _owns(self, entity: Listener | Pool | Route | User | ServerCertificate) -> bool:
        return entity.fleet_id == self.fleet_id

    def _routes(self, world: World) -> Message:
        pools, routes = pools_of(world, self.fleet_id), routes_of(world, self.fleet_id)
        return translate_gateway_routes(pools, routes) if routes else translate_gateway_routes(pools)

    def _listener(self, world: World, name: str) -> Message | None:
        found = [world.listeners[each] for each in world.listeners_of.get(self.fleet_id, ())]
        listeners = [each for each in found if names.gateway_listener(each) == name]
        if not listeners:
            return None
        listener = min(listeners, key=attrgetter("id.int"))
        pool = world.pools.get(listener.pool_id) if listener.pool_id else None
        if pool and self._owns(pool):
            return translate_gateway_listener(listener, pool)
        return translate_gateway_listener(listener)

    def _new_aggregates(self, old: World, new: World) -> AbstractSet[ResourceId]:
        """Those that came and those that went: what one is made of is in its name."""
        before, after = aggregates_of(old, self.fleet_id), aggregates_of(new, self.fleet_id)
        return _aggregates(before.keys() ^ after.keys()) if before or after else frozenset()

    def _defaulting_to(self, pool: Pool, world: World) -> AbstractSet[ResourceId]:
        listeners = (world.listeners[each] for each in world.listeners_of.get(self.fleet_id, ()))
        return {_listener(each) for each in listeners if each.pool_id == pool.id}


@dataclass(frozen=True, slots=True)
class GatewayEndpoints:
    """The exits as the gateways of a fleet see them from one locality (None: they do not know where they stand)."""

    types: ClassVar[AbstractSet[str]] = frozenset({names.ENDPOINT})
    shared: ClassVar[bool] = True

    fleet_id: UUID
    locality: Locality | None

    @property
    def key(self) -> str:
        return f"endpoints/{self.fleet_id}" + (f"/{self.locality}" if self.locality else "")

    def fleet(self, world: World) -> UUID | None:  # noqa: ARG002 - a Scope's
        return self.fleet_id

    def resources(self, world: World) -> AbstractSet[ResourceId]:
        return {_endpoints(world.pools[pool_id]) for pool_id in world.pools_of.get(self.fleet_id, ())}

    def translate(self, world: World, resource: ResourceId) -> Message | None:
        pool = world.pools.get(names.pool_of_cluster(resource.name))
        if pool is None or pool.fleet_id != self.fleet_id:
            return None
        exit_ids = world.exits_of.get(pool.id, frozenset())
        return translate_endpoints(pool, [world.exits[exit_id] for exit_id in exit_ids], self.locality)

    def touched(self, change: Change, old: World, new: World) -> Iterable[ResourceId]:
        found: set[ResourceId] = set(_of_rollout(self.key, change))
        for value in (_before(change, old), change.value):
            match value:
                case Pool() if value.fleet_id == self.fleet_id:
                    found.add(_endpoints(value))
                case Exit():
                    pool = new.pools.get(value.pool_id)
                    if pool and pool.fleet_id == self.fleet_id:
                        found.add(_endpoints(pool))
        return found


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

    def resources(self, world: World) -> AbstractSet[ResourceId]:
        return {_EXIT_ROUTES, _TARGETS} if self.pool_id in world.pools else set()

    def translate(self, world: World, resource: ResourceId) -> Message | None:
        pool = world.pools.get(self.pool_id)
        if pool is None:
            return None
        return translate_exit_targets() if resource == _TARGETS else translate_exit_routes(pool)

    def touched(self, change: Change, old: World, new: World) -> Iterable[ResourceId]:  # noqa: ARG002 - a Scope's
        if change.kind is Kind.POOL and change.key == self.pool_id:
            return {_EXIT_ROUTES, _TARGETS}
        return _of_rollout(self.key, change)


@dataclass(frozen=True, slots=True)
class ParentProxyGroup:
    """The exits of a pool that have a parent. They are given nothing that an exit without one would dial a target by."""

    types: ClassVar[AbstractSet[str]] = frozenset({names.ROUTE})
    shared: ClassVar[bool] = True

    pool_id: UUID

    @property
    def key(self) -> str:
        return f"parent/{self.pool_id}"

    def fleet(self, world: World) -> UUID | None:
        return world.pools[self.pool_id].fleet_id if self.pool_id in world.pools else None

    def resources(self, world: World) -> AbstractSet[ResourceId]:
        return {_PARENT_ROUTES} if self.pool_id in world.pools else set()

    def translate(self, world: World, resource: ResourceId) -> Message | None:  # noqa: ARG002 - a Scope's
        pool = world.pools.get(self.pool_id)
        return translate_parent_routes(pool) if pool else None

    def touched(self, change: Change, old: World, new: World) -> Iterable[ResourceId]:  # noqa: ARG002 - a Scope's
        if change.kind is Kind.POOL and change.key == self.pool_id:
            return {_PARENT_ROUTES}
        return _of_rollout(self.key, change)


@dataclass(frozen=True, slots=True)
class ExitOverlay:
    """What belongs to one exit alone: where it listens, from which address it leaves, and its parent with what that is shown."""

    types: ClassVar[AbstractSet[str]] = frozenset({names.CLUSTER, names.LISTENER, names.SECRET})
    shared: ClassVar[bool] = False

    exit_id: UUID

    @property
    def key(self) -> str:
        return f"overlay/{self.exit_id}"

    def fleet(self, world: World) -> UUID | None:
        return world.proxies[self.exit_id].fleet_id if self.exit_id in world.proxies else None

    def resources(self, world: World) -> AbstractSet[ResourceId]:
        exit_ = world.exits.get(self.exit_id)
        if exit_ is None:
            return set()
        if exit_.parent:
            secrets = set() if exit_.parent.password is None else {_PARENT_SECRET}
            return {_EXIT_LISTENER, _PARENT, *secrets}
        return {_EXIT_LISTENER, _TARGETS} if exit_.egress_address else {_EXIT_LISTENER}

    def translate(self, world: World, resource: ResourceId) -> Message | None:
        exit_ = world.exits.get(self.exit_id)
        if exit_ is None or resource not in self.resources(world):
            return None
        if resource == _EXIT_LISTENER:
            return translate_exit_listener(exit_, world.pools[exit_.pool_id].fleet_id)
        if exit_.parent is None:
            return translate_exit_targets(exit_.egress_address)
        if resource == _PARENT:
            return translate_parent(exit_.parent, exit_.egress_address)
        return translate_credentials(exit_.parent)

    def touched(self, change: Change, old: World, new: World) -> Iterable[ResourceId]:
        if change.kind is Kind.EXIT and change.key == self.exit_id:
            return self.resources(old) | self.resources(new)
        if change.kind is Kind.POOL and self.exit_id in _admitting_others(change, old, new):
            return {_EXIT_LISTENER}
        return _of_rollout(self.key, change)


def scopes_of(proxy: Proxy, world: World) -> tuple[Scope, ...]:
    """What a proxy is given: its group, and over it its overlay. Empty when the World knows no such exit."""
    if proxy.role is Role.GATEWAY:
        return (GatewayGroup(proxy.fleet_id), GatewayEndpoints(proxy.fleet_id, proxy.locality))
    exit_ = world.exits.get(proxy.id)
    if exit_ is None:
        return ()
    return (ParentProxyGroup(exit_.pool_id) if exit_.parent else ExitGroup(exit_.pool_id), ExitOverlay(exit_.id))


def scope_keys(change: Change, old: World, new: World) -> set[str]:
    """The keys of the scopes that a change may touch: all others need not be asked.

    Endpoints are named for where gateways stand, before the change or after it; nobody holds any others.
    """
    if not isinstance(change.key, UUID):
        return {_resource_of(change.key).group}
    if change.kind is Kind.APPROVAL:
        pools = new.pools_of.get(change.key, frozenset())
        of_exits = {each(pool_id).key for pool_id in pools for each in (ExitGroup, ParentProxyGroup)}
        return {GatewayGroup(change.key).key, *of_exits}
    keys = {ExitOverlay(exit_id).key for exit_id in _admitting_others(change, old, new)}
    for value in (_before(change, old), change.value):
        match value:
            case Listener() | Route() | User() | ServerCertificate():
                keys.add(GatewayGroup(value.fleet_id).key)
            case Pool():
                keys |= {GatewayGroup(value.fleet_id).key, ExitGroup(value.id).key, ParentProxyGroup(value.id).key}
                keys |= _endpoints_keys(value.fleet_id, old, new)
            case Exit():
                keys.add(ExitOverlay(value.id).key)
                pool = new.pools.get(value.pool_id) or old.pools.get(value.pool_id)
                if pool:
                    keys |= _endpoints_keys(pool.fleet_id, old, new)
    return keys


def _endpoints_keys(fleet_id: UUID, *worlds: World) -> set[str]:
    return {
        GatewayEndpoints(fleet_id, locality).key for world in worlds for locality in world.gateways_at.get(fleet_id, ())
    }


def _before(change: Change, old: World) -> Entity | None:
    tables: Mapping[Kind, Mapping[Any, Entity]] = {
        Kind.LISTENER: old.listeners,
        Kind.POOL: old.pools,
        Kind.EXIT: old.exits,
        Kind.ROUTE: old.routes,
        Kind.USER: old.users,
        Kind.SERVER_CERTIFICATE: old.certificates,
    }
    return tables.get(change.kind, {}).get(change.key)


def _cluster(pool: Pool) -> ResourceId:
    return ResourceId(names.CLUSTER, names.pool_cluster(pool))


def _aggregates(cluster_names: Iterable[str]) -> AbstractSet[ResourceId]:
    return {ResourceId(names.CLUSTER, name) for name in cluster_names}


def _listener(listener: Listener) -> ResourceId:
    return ResourceId(names.LISTENER, names.gateway_listener(listener))


def _secret(certificate: ServerCertificate) -> ResourceId:
    return ResourceId(names.SECRET, names.certificate_secret(certificate.id))


def _endpoints(pool: Pool) -> ResourceId:
    return ResourceId(names.ENDPOINT, names.pool_cluster(pool))


def _admitting_others(change: Change, old: World, new: World) -> AbstractSet[UUID]:
    """The exits of a pool that went to another fleet: their listeners admit the gateways of that one."""
    before, after = _before(change, old), change.value
    if isinstance(before, Pool) and isinstance(after, Pool) and before.fleet_id != after.fleet_id:
        return new.exits_of.get(after.id, frozenset())
    return frozenset()


def _of_rollout(key: str, change: Change) -> Iterable[ResourceId]:
    """The resource whose acceptance or rejection changed, if it is one of this scope."""
    if isinstance(change.key, UUID):
        return ()
    resource = _resource_of(change.key)
    return {ResourceId(resource.type_url, resource.name)} if resource.group == key else ()


def _resource_of(key: ResourceKey | tuple[ResourceKey, str]) -> ResourceKey:
    return key if isinstance(key, ResourceKey) else key[0]
