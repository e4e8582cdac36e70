"""The path of a request, computed without a gateway from the declared routes and pools of a World.

It does not read the compiled routes, so that tests can compare both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from uuid import UUID

from model.entities import FIRST_LISTENER, Allow, Deny, Exit, Listener, Match, Pool, Route, ToPools, Window
from model.exit_states import SERVING
from model.locality import Locality
from model.world import World
from xds.translate import direct_responses
from xds.translate.client_intent import (
    INVALID_NAME,
    NO_LOCATION,
    ClientIntent,
    RequestedLocation,
    RequestTarget,
    normalise_name,
    parse_target,
    read_intent,
)
from xds.translate.default_routes import ServedLocations, find_served_locations
from xds.translate.destinations import Destination, destinations
from xds.translate.direct_responses import DirectResponse
from xds.translate.endpoints import distance, is_offered
from xds.translate.fleet_index import pools_of, routes_of
from xds.translate.gateway_routes import sort_routes
from xds.translate.match_failures import MatchFailure


@dataclass(frozen=True, slots=True)
class ExplainRequest:
    """A client's request to a gateway of a fleet, and its time.

    `listener_id` None is the fleet's first listener. `location` and `session` come from the client's headers, `user_name` is its
    whole proxy user name (`alice-country-de`), `server_name` its TLS server name. `day` (0: Monday) and `minute` of the day are
    UTC.
    """

    target_host: str
    target_port: int
    listener_id: UUID | None = None
    server_name: str = ""
    user_name: str = ""
    location: RequestedLocation = NO_LOCATION
    session: str | None = None
    day: int = 0
    minute: int = 0


@dataclass(frozen=True, slots=True)
class TriedRoute:
    """A route that was tried, and the first condition that the request failed; None for the route that decided."""

    route: Route
    failed: MatchFailure | None


@dataclass(frozen=True, slots=True)
class ExplainedExit:
    """An exit of a pool, and the reason why it serves no client (empty: it serves).

    Of those that serve, the nearest are used first: `distance` is 0 in the gateway's zone, 1 in its region, 2 elsewhere. Exits
    on standby are used when no other serves.
    """

    exit: Exit
    distance: int
    why_not: str


@dataclass(frozen=True, slots=True)
class ExplainedPool:
    """A pool and its exits, in the order in which a gateway prefers them."""

    pool: Pool
    exits: tuple[ExplainedExit, ...]


@dataclass(frozen=True, slots=True)
class RequestPath:
    """A possible path of a request with its weight: pools in order, each used when those before it have no exit."""

    weight: int
    pools: tuple[ExplainedPool, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision of a gateway on a request: its paths, or its direct response."""

    listener: Listener
    intent: ClientIntent
    group: str | None
    target: RequestTarget
    tried: tuple[TriedRoute, ...]
    """The routes that were tried, in order; the last one decided if nothing failed."""
    paths: tuple[RequestPath, ...]
    refusal: DirectResponse | None
    """The answer to a request without a path. With paths, a client gets 503 if none of their exits serves."""


def explain(
    world: World, fleet_id: UUID, request: ExplainRequest, seen_from: Locality | None = None
) -> Explanation | None:
    """Explain how a gateway of a fleet at a locality handles a request; None if the fleet has no such listener."""
    listener = _listener(world, fleet_id, request.listener_id)
    if listener is None:
        return None
    intent = _read_intent(world, listener, request)
    group = _group(world, fleet_id, intent.user)
    target = parse_target(request.target_host, request.target_port)
    tried: list[TriedRoute] = []
    decided = _decide(world, fleet_id, intent, group, target, request, tried)
    paths: tuple[RequestPath, ...] = ()
    if not isinstance(decided, DirectResponse):
        paths = tuple(
            RequestPath(each.weight, tuple(_explain_pool(world, pool, seen_from) for pool in each.pools))
            for each in decided
        )
    refusal = decided if isinstance(decided, DirectResponse) else None
    return Explanation(listener, intent, group, target, tuple(tried), paths, refusal)


def _listener(world: World, fleet_id: UUID, listener_id: UUID | None) -> Listener | None:
    listeners = [world.listeners[each] for each in world.listeners_of.get(fleet_id, ())]
    if listener_id is None:
        return min(listeners, key=lambda each: (each.name != FIRST_LISTENER, each.id.int), default=None)
    return next((each for each in listeners if each.id == listener_id), None)


def _read_intent(world: World, listener: Listener, request: ExplainRequest) -> ClientIntent:
    pool = world.pools.get(listener.pool_id) if listener.pool_id else None
    default = (
        RequestedLocation(pool=pool.name)
        if pool and pool.fleet_id == listener.fleet_id
        else RequestedLocation(listener.country)
    )
    dialled = request.server_name.lower() if listener.certificate_id else ""
    by_name = {name.lower(): country for name, country in listener.countries_by_server_name}
    return read_intent(
        request.location, request.session, request.user_name, RequestedLocation(by_name.get(dialled)), default
    )


def _group(world: World, fleet_id: UUID, user: str | None) -> str | None:
    users = sorted((world.users[each] for each in world.users_of.get(fleet_id, ())), key=lambda each: each.id.int)
    found = [normalise_name(each.group) for each in users if user and normalise_name(each.name) == user]
    return found[-1] if found else None


def _decide(
    world: World,
    fleet_id: UUID,
    intent: ClientIntent,
    group: str | None,
    target: RequestTarget,
    request: ExplainRequest,
    tried: list[TriedRoute],
) -> tuple[Destination, ...] | DirectResponse:
    if target.host == INVALID_NAME:
        return direct_responses.INVALID_TARGET
    if intent.location.city and not intent.location.country:
        return direct_responses.CITY_WITHOUT_COUNTRY
    pools = {pool.id: pool for pool in pools_of(world, fleet_id)}
    for route in sort_routes(routes_of(world, fleet_id)):
        failed = _first_failure(route.match, intent, group, target, request)
        tried.append(TriedRoute(route, failed))
        if failed is None:
            if isinstance(route.action, Allow):
                break
            return _apply(route, pools.get)
    return _default_route(intent.location, find_served_locations(pools.values()))


def _apply(route: Route, find: Callable[[UUID], Pool | None]) -> tuple[Destination, ...] | DirectResponse:
    if isinstance(route.action, Deny):
        return direct_responses.denied_by_route(route.action.status, route.action.text)
    assert isinstance(route.action, ToPools)
    return destinations(route.action, find) or direct_responses.missing_pools(route.name)


def _default_route(location: RequestedLocation, served: ServedLocations) -> tuple[Destination, ...] | DirectResponse:
    """Apply the default routes."""
    if location.pool:
        pool = served.by_name.get(location.pool)
        return (Destination(1, (pool,)),) if pool else direct_responses.no_such_pool(served.by_name)
    if not location.country:
        return direct_responses.no_location_requested(served.all_countries)
    if location.city:
        cities = served.cities.get(location.country)
        if cities is None:
            return direct_responses.no_city_of_country(served.cities)
        pool = cities.get(location.city)
        return (Destination(1, (pool,)),) if pool else direct_responses.no_city_served(cities, location.country)
    return served.of_country(location.country) or direct_responses.no_country_served(served.all_countries)


def _first_failure(
    match: Match, intent: ClientIntent, group: str | None, target: RequestTarget, request: ExplainRequest
) -> MatchFailure | None:
    address = target.address
    conditions: Sequence[tuple[MatchFailure, bool]] = (
        (MatchFailure.COUNTRY, not match.countries or intent.location.country in match.countries),
        (MatchFailure.CITY, not match.cities or intent.location.city in match.cities),
        (MatchFailure.POOL, not match.pools or intent.location.pool in match.pools),
        (MatchFailure.SESSION, not match.sessions or any(_is_session(each, intent.session) for each in match.sessions)),
        (MatchFailure.USER, not match.users or intent.user in match.users),
        (MatchFailure.GROUP, not match.groups or group in match.groups),
        (
            MatchFailure.DOMAIN,
            not match.domains or any(_is_below(target.domain and target.host, each) for each in match.domains),
        ),
        (
            MatchFailure.NETWORK,
            not match.networks
            or (address is not None and any(address in ip_network(each, strict=False) for each in match.networks)),
        ),
        (MatchFailure.PORT, not match.ports or any(low <= target.port <= high for low, high in match.ports)),
        (
            MatchFailure.TIME,
            not match.times or any(_is_within(each, request.day, request.minute) for each in match.times),
        ),
    )
    return next((failure for failure, holds in conditions if not holds), None)


def _is_session(wanted: str, session: str | None) -> bool:
    if session is None:
        return False
    return session.startswith(wanted[:-1]) if wanted.endswith("*") else session == wanted


def _is_below(name: str | None, domain: str) -> bool:
    return name is not None and f".{name}".endswith(f".{domain}")


def _is_within(window: Window, day: int, minute: int) -> bool:
    if window.start < window.end:
        return day in window.days and window.start <= minute < window.end
    return (day in window.days and window.start <= minute) or ((day - 1) % 7 in window.days and minute < window.end)


def _explain_pool(world: World, pool: Pool, seen_from: Locality | None) -> ExplainedPool:
    exits = [
        ExplainedExit(exit_, distance(seen_from, exit_.locality), _why_not(exit_))
        for exit_ in (world.exits[each] for each in world.exits_of.get(pool.id, ()))
    ]
    exits.sort(key=lambda each: (bool(each.why_not), each.exit.standby, each.distance, each.exit.id.int))
    return ExplainedPool(pool, tuple(exits))


def _why_not(exit_: Exit) -> str:
    if is_offered(exit_):
        return ""
    if exit_.state not in SERVING:
        return f"it is {exit_.state}"
    return "its address is not resolved yet"
