"""Indexes over the pools, routes and users of a fleet, cached for each state of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from model.entities import Pool, Route, ToPools, Tracing
from model.world import World
from xds.translate.client_intent import normalise_name
from xds.translate.default_routes import find_served_locations
from xds.translate.destinations import destinations


@dataclass(frozen=True, eq=False, slots=True)
class _State:
    """The pools and routes of a fleet as a cache key, compared by identity.

    Tables of a World never change, and comparing their contents would cost as much as the index.
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
    """Return the routes of a fleet, in no order."""
    return [world.routes[route_id] for route_id in world.routes_of.get(fleet_id, ())]


def pools_of(world: World, fleet_id: UUID) -> list[Pool]:
    """Return the pools of a fleet, in no order."""
    return [world.pools[pool_id] for pool_id in world.pools_of.get(fleet_id, ())]


def matched_groups(world: World, fleet_id: UUID) -> frozenset[str]:
    """Return the groups that enabled routes of a fleet match on."""
    return _matched_groups(_state(world, fleet_id))


@lru_cache(maxsize=16)
def _matched_groups(state: _State) -> frozenset[str]:
    found = (state.routes[route_id] for route_id in state.route_ids)
    return frozenset(group for route in found if route.enabled for group in route.match.groups)


def groups_by_user(world: World, fleet_id: UUID) -> tuple[tuple[str, str], ...]:
    """Return pairs of a user and a group that routes match on, both normalised."""
    matched = matched_groups(world, fleet_id)
    if not matched:
        return ()
    found: dict[str, str] = {}
    for user in sorted(
        (world.users[user_id] for user_id in world.users_of.get(fleet_id, ())), key=lambda user: user.id.int
    ):
        name, group = normalise_name(user.name), normalise_name(user.group)
        if name and group in matched:
            found[name] = group
    return tuple(sorted(found.items()))


def aggregates_of(world: World, fleet_id: UUID) -> Mapping[str, tuple[Pool, ...]]:
    """Return the aggregate clusters of a fleet: pools in order of use, by the cluster's name."""
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
        served = find_served_locations(pools)
        for country in served.cities.keys() - served.countries.keys():
            found |= {each.cluster: each.pools for each in served.of_country(country) if len(each.pools) > 1}
    return found


def tracing_of(world: World, fleet_id: UUID) -> Tracing | None:
    """Return how a fleet traces; None if it does not."""
    fleet = world.fleets.get(fleet_id)
    return fleet.tracing if fleet else None
