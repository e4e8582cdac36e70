"""The one place that says which resources a change affects.

Publisher, snapshots and dry run ask `affected`, and translate nothing else (docs/architecture.md#cost-follows-the-change). Too
small an answer would serve a stale resource: tests/snapshot/test_incremental.py holds it against builds from scratch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from uuid import UUID

from model.entities import Entity, Exit, Listener, Pool, Proxy, ResourceKey, Role, Route, ServerCertificate, User
from model.world import Change, Key, Kind, World
from xds.translate import resource_ids
from xds.translate.fleet_index import aggregates_of, tracing_of
from xds.translate.gateway_filters import ECDS_RESOURCES
from xds.translate.resource_ids import ResourceId
from xds.translate.scopes import ExitAdmission, ExitGroup, ExitOverlay, GatewayEndpoints, GatewayGroup, ParentProxyGroup

ScopeKey: TypeAlias = str
_Found: TypeAlias = Iterator[tuple[ScopeKey, ResourceId]]

_TABLES: Final[Mapping[Kind, str]] = {
    Kind.LISTENER: "listeners",
    Kind.POOL: "pools",
    Kind.EXIT: "exits",
    Kind.ROUTE: "routes",
    Kind.USER: "users",
    Kind.SERVER_CERTIFICATE: "certificates",
}
"""The tables of a World whose entities have resources of their own."""


@dataclass(slots=True)
class AffectedResources:
    """The resources of one scope that changes affect. Empty when only the judgement of its change-sets may differ."""

    declared: set[ResourceId] = field(default_factory=set)
    """Their translation may differ, come or go."""
    judged: set[ResourceId] = field(default_factory=set)
    """They were accepted or rejected, which changes no translation."""


def affected(changes: Iterable[Change], old: World, new: World) -> Mapping[ScopeKey, AffectedResources]:
    """Return the resources that changes between two Worlds affect, by the key of their scope.

    Endpoints are listed for the localities that have gateways in either World; no proxy is given any others.
    """
    found: defaultdict[ScopeKey, AffectedResources] = defaultdict(AffectedResources)
    rerouted: set[UUID] = set()
    """Fleets whose pools or routes changed. Their aggregate clusters are compared once, after all changes."""
    for change in changes:
        if not isinstance(change.key, UUID):
            resource = _resource_key(change.key)
            found[resource.group].judged.add(ResourceId(resource.type_url, resource.name))
        elif change.kind is Kind.APPROVAL:
            for key in _guarded_scopes(change.key, new):
                found[key]
        elif change.kind is Kind.OVERRIDE:
            for world in (old, new):
                if override := world.overrides.get(change.key):
                    found[override.group]
        elif change.kind is Kind.PROXY:
            for fleet_id in _of_gateway_that_moved(old.proxies.get(change.key), change.value):
                found[ExitAdmission(fleet_id).key].declared |= {
                    resource_ids.GATEWAYS_SECRET,
                    resource_ids.ADMISSION_FILTER,
                }
        elif change.kind is Kind.AUTHORITY:
            for fleet_id in new.fleets:
                found[ExitAdmission(fleet_id).key].declared.add(resource_ids.GATEWAYS_SECRET)
        elif change.kind is Kind.FLEET:
            for key, resource_id in _of_tracing(change.key, old, new):
                found[key].declared.add(resource_id)
        elif change.kind in _TABLES:
            before = getattr(old, _TABLES[change.kind]).get(change.key)
            for entity in (before, change.value):
                if entity is None:
                    continue
                for key, resource_id in _of_entity(entity, old, new):
                    found[key].declared.add(resource_id)
                if isinstance(entity, Pool | Route):
                    rerouted.add(entity.fleet_id)
        if new.rejections and isinstance(change.key, UUID):
            for key in _resized_scopes(change.kind, change.key, old, new):
                found[key]
    for fleet_id in rerouted:
        found[GatewayGroup(fleet_id).key].declared |= _differing_aggregates(fleet_id, old, new)
    return dict(found)


def _of_entity(entity: Entity, old: World, new: World) -> _Found:
    """Yield what depends on an entity, in its old or its new state."""
    match entity:
        case Exit():
            yield from _of_exit(entity, old, new)
            return
        case Pool():
            yield from _of_pool(entity, old, new)
        case Listener():
            yield GatewayGroup(entity.fleet_id).key, resource_ids.gateway_listener(entity)
        case ServerCertificate():
            yield GatewayGroup(entity.fleet_id).key, resource_ids.certificate_secret(entity.id)
        case Route():
            yield GatewayGroup(entity.fleet_id).key, resource_ids.GATEWAY_ROUTES
        case User():
            pass
        case _:
            return
    for each in ECDS_RESOURCES.values():
        if each.is_input(entity, old, new):
            yield GatewayGroup(entity.fleet_id).key, each.id


def _of_pool(pool: Pool, old: World, new: World) -> _Found:
    gateways = GatewayGroup(pool.fleet_id).key
    yield gateways, resource_ids.pool_cluster(pool)
    yield gateways, resource_ids.GATEWAY_ROUTES
    for listener_id in new.listeners_of.get(pool.fleet_id, ()):
        listener = new.listeners[listener_id]
        if listener.pool_id == pool.id:
            yield gateways, resource_ids.gateway_listener(listener)
    for key in _endpoints_scopes(pool.fleet_id, old, new):
        yield key, resource_ids.pool_endpoints(pool)
    yield ExitGroup(pool.id).key, resource_ids.EXIT_ROUTES
    yield ExitGroup(pool.id).key, resource_ids.EXIT_TARGETS
    yield ParentProxyGroup(pool.id).key, resource_ids.PARENT_ROUTES
    before, after = old.pools.get(pool.id), new.pools.get(pool.id)
    if before and after and tracing_of(old, before.fleet_id) != tracing_of(new, after.fleet_id):
        yield from _listeners_of_exits(pool.id, new)


def _of_tracing(fleet_id: UUID, old: World, new: World) -> _Found:
    """Yield what depends on how a fleet traces, if that changed."""
    before, after = tracing_of(old, fleet_id), tracing_of(new, fleet_id)
    if before == after:
        return
    gateways = GatewayGroup(fleet_id).key
    yield gateways, resource_ids.GATEWAY_ROUTES
    if (before and before.in_listeners) == (after and after.in_listeners):
        return
    for listener_id in new.listeners_of.get(fleet_id, ()):
        yield gateways, resource_ids.gateway_listener(new.listeners[listener_id])
    for pool_id in new.pools_of.get(fleet_id, ()):
        yield from _listeners_of_exits(pool_id, new)


def _listeners_of_exits(pool_id: UUID, world: World) -> _Found:
    for exit_id in world.exits_of.get(pool_id, ()):
        yield ExitOverlay(exit_id).key, resource_ids.EXIT_LISTENER


def _of_gateway_that_moved(before: Entity | None, after: Entity | None) -> Iterator[UUID]:
    """Yield the fleets that a gateway has joined or left: their exits admit their own gateways."""
    fleets = [
        each.fleet_id if isinstance(each, Proxy) and each.role is Role.GATEWAY else None for each in (before, after)
    ]
    if fleets[0] != fleets[1]:
        yield from (each for each in fleets if each is not None)


def _of_exit(exit_: Exit, old: World, new: World) -> _Found:
    overlay = ExitOverlay(exit_.id)
    for resource_id in overlay.resources(old) | overlay.resources(new):
        yield overlay.key, resource_id
    pool = new.pools.get(exit_.pool_id)  # a pool that is gone, or was in another fleet, is a change of its own
    if pool:
        for key in _endpoints_scopes(pool.fleet_id, old, new):
            yield key, resource_ids.pool_endpoints(pool)


def _endpoints_scopes(fleet_id: UUID, *worlds: World) -> set[ScopeKey]:
    localities = {locality for world in worlds for locality in world.gateways_at.get(fleet_id, ())}
    return {GatewayEndpoints(fleet_id, locality).key for locality in localities}


def _guarded_scopes(fleet_id: UUID, world: World) -> Iterator[ScopeKey]:
    """Yield the scopes whose shrinking an approval for the fleet allows."""
    yield GatewayGroup(fleet_id).key
    for pool_id in world.pools_of.get(fleet_id, ()):
        yield ExitGroup(pool_id).key
        yield ParentProxyGroup(pool_id).key


def _resized_scopes(kind: Kind, key: UUID, old: World, new: World) -> Iterator[ScopeKey]:
    """Yield the scopes that proxies may have joined or left: how many must reject a version depends on their number."""
    for world in (old, new):
        if kind is Kind.PROXY and (proxy := world.proxies.get(key)):
            yield GatewayGroup(proxy.fleet_id).key
        if kind is Kind.EXIT and (exit_ := world.exits.get(key)):
            yield ExitGroup(exit_.pool_id).key
            yield ParentProxyGroup(exit_.pool_id).key
            yield ExitOverlay(exit_.id).key


def _differing_aggregates(fleet_id: UUID, old: World, new: World) -> frozenset[ResourceId]:
    """Return the aggregate clusters that come or go. None of them changes, since its name is a hash of its pools."""
    before, after = aggregates_of(old, fleet_id), aggregates_of(new, fleet_id)
    return resource_ids.aggregate_clusters(before.keys() ^ after.keys())


def _resource_key(key: Key) -> ResourceKey:
    match key:
        case ResourceKey():
            return key
        case (ResourceKey() as resource, _, _):
            return resource
    raise TypeError(f"{key} is no key of an accepted or rejected resource")
