"""What the resources of a fleet are made of beside its pools: indexes over its routes, made once for each state of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from model.entities import Pool, Route, ToPools
from model.world import World
from xds.translate.client_intent import understood_name
from xds.translate.default_routes import what_is_served
from xds.translate.destinations import destinations


@dataclass(frozen=True, eq=False, slots=True)
class _State:
    """The pools and routes of a fleet, as a key by identity.

    Tables of a World are never changed, and to compare them would cost what is to be saved.
    """

    fleet_id: UUID
    pools: Mapping[UUID, Pool]
    routes: Mapping[UUID, Route]
    pool_ids: frozenset[UUID]
    route_ids: frozenset[UUID]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _State)
            and self.pools is other.pools
            and self.routes is other.routes
            and self.fleet_id == other.fleet_id
        )

    def __hash__(self) -> int:
        return hash((self.fleet_id, id(self.pools), id(self.routes)))


def _state(world: World, fleet_id: UUID) -> _State:
    pool_ids = world.pools_of.get(fleet_id, frozenset())
    return _State(fleet_id, world.pools, world.routes, pool_ids, world.routes_of.get(fleet_id, frozenset()))


def routes_of(world: World, fleet_id: UUID) -> list[Route]:
    """The routes of a fleet, in no order."""
    return [world.routes[route_id] for route_id in world.routes_of.get(fleet_id, ())]


def pools_of(world: World, fleet_id: UUID) -> list[Pool]:
    """The pools of a fleet, in no order."""
    return [world.pools[pool_id] for pool_id in world.pools_of.get(fleet_id, ())]


def groups_asked_for(world: World, fleet_id: UUID) -> frozenset[str]:
    """The groups that some route of a fleet matches on."""
    return _groups_asked_for(_state(world, fleet_id))


@lru_cache(maxsize=16)
def _groups_asked_for(state: _State) -> frozenset[str]:
    found = (state.routes[route_id] for route_id in state.route_ids)
    return frozenset(group for route in found if route.enabled for group in route.match.groups)


def groups_by_user(world: World, fleet_id: UUID) -> tuple[tuple[str, str], ...]:
    """Who belongs to which of the groups that routes match on, as pairs, as routes know both."""
    asked_for = groups_asked_for(world, fleet_id)
    if not asked_for:
        return ()
    found: dict[str, str] = {}
    for user in sorted(
        (world.users[user_id] for user_id in world.users_of.get(fleet_id, ())), key=lambda user: user.id.int
    ):
        name, group = understood_name(user.name), understood_name(user.group)
        if name and group in asked_for:
            found[name] = group
    return tuple(sorted(found.items()))


def aggregates_of(world: World, fleet_id: UUID) -> Mapping[str, tuple[Pool, ...]]:
    """The clusters of a fleet that go on from one pool to the next, by name, with their pools in order."""
    return _aggregates_of(_state(world, fleet_id))


@lru_cache(maxsize=16)
def _aggregates_of(state: _State) -> Mapping[str, tuple[Pool, ...]]:
    def find(pool_id: UUID) -> Pool | None:
        return state.pools[pool_id] if pool_id in state.pool_ids else None

    found: dict[str, tuple[Pool, ...]] = {}
    for route_id in state.route_ids:
        route = state.routes[route_id]
        if route.enabled and isinstance(route.action, ToPools):
            for each in destinations(route.action, find):
                if len(each.pools) > 1:
                    found[each.cluster] = each.pools
    pools = [state.pools[pool_id] for pool_id in state.pool_ids]
    if any(pool.city for pool in pools):
        served = what_is_served(pools)
        for country in served.cities.keys() - served.countries.keys():
            found |= {each.cluster: each.pools for each in served.of_country(country) if len(each.pools) > 1}
    return found
