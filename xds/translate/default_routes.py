"""Default routes: requests that no declared route decides go to the pool, city or country that they ask for.

Each is a hash look-up, however many pools there are. A city never falls back to its country: a client that asks for Berlin is
rather refused than sent elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from model.entities import Pool
from xds.translate import names
from xds.translate.client_intent import INVALID_NAME
from xds.translate.destinations import Destination, share_evenly
from xds.translate.direct_responses import (
    CITY_WITHOUT_COUNTRY,
    INVALID_TARGET,
    no_city_of_country,
    no_city_served,
    no_country_served,
    no_location_requested,
    no_such_pool,
)
from xds.translate.matchers import OnMatch, Predicate, all_of, by_value, equals, first_of, is_present, negate, nest
from xds.translate.route_actions import forward, forward_to_pool, respond


@dataclass(frozen=True, slots=True)
class ServedLocations:
    """The names and locations that a fleet's pools serve. Of several pools for one of them, the last by id is used."""

    by_name: Mapping[str, Pool]
    countries: Mapping[str, Pool]
    """Pools without a city, by country."""
    cities: Mapping[str, Mapping[str, Pool]] = field(default_factory=dict)
    """Pools with a city, by country and city."""

    def of_country(self, country: str) -> tuple[Destination, ...]:
        """Return the destinations of a request for a country; empty if no pool serves it."""
        if country in self.countries:
            return (Destination(1, (self.countries[country],)),)
        return share_evenly([pool for _, pool in sorted(self.cities.get(country, {}).items())])

    @property
    def all_countries(self) -> frozenset[str]:
        return frozenset((*self.countries, *self.cities))


def find_served_locations(pools: Iterable[Pool]) -> ServedLocations:
    """Index pools by the names and locations that they serve."""
    by_name, countries, cities = dict[str, Pool](), dict[str, Pool](), dict[str, dict[str, Pool]]()
    for pool in sorted(pools, key=attrgetter("id.int")):  # UUIDs compare slowly
        by_name[pool.name] = pool
        if pool.only_by_name:
            continue
        if pool.city:
            cities.setdefault(pool.country, {})[pool.city] = pool
        else:
            countries[pool.country] = pool
    return ServedLocations(by_name, countries, cities)


def reject_malformed() -> Sequence[tuple[Predicate, OnMatch]]:
    """Build the entries, ahead of all routes, that answer requests that no route may decide.

    No condition of a route holds for a target that is neither a name nor an address, so a route that denies would not deny it.
    """
    city_alone = all_of([is_present(names.REQUESTED_CITY), negate(is_present(names.REQUESTED_COUNTRY))])
    return [
        (equals(names.TARGET_HOST, INVALID_NAME), respond(INVALID_TARGET)),
        (city_alone, respond(CITY_WITHOUT_COUNTRY)),
    ]


def compile_default_routes(served: ServedLocations) -> tuple[Sequence[tuple[Predicate, OnMatch]], OnMatch]:
    """Build the entries for requests for a pool or a city, and the action for all others: those for a country or for nothing."""
    # each pool is hashed once: its cached action costs a hash to find
    actions = {id(pool): forward_to_pool(pool) for pool in served.by_name.values()}

    def action(pool: Pool) -> OnMatch:
        return actions.get(id(pool)) or forward_to_pool(pool)

    def forward_each(pools: Mapping[str, Pool]) -> Mapping[str, OnMatch]:
        return {key: action(pool) for key, pool in pools.items()}

    cities = {
        country: _table(names.REQUESTED_CITY, forward_each(of_country), respond(no_city_served(of_country, country)))
        for country, of_country in served.cities.items()
    }
    entries = [
        (
            is_present(names.REQUESTED_POOL),
            _table(names.REQUESTED_POOL, forward_each(served.by_name), respond(no_such_pool(served.by_name))),
        ),
        (
            is_present(names.REQUESTED_CITY),
            _table(names.REQUESTED_COUNTRY, cities, respond(no_city_of_country(cities))),
        ),
    ]
    all_countries = served.all_countries
    not_served = first_of(
        [(is_present(names.REQUESTED_COUNTRY), respond(no_country_served(all_countries)))],
        respond(no_location_requested(all_countries)),
    )
    by_cities = {country: forward(served.of_country(country)) for country in all_countries - served.countries.keys()}
    countries = {**forward_each(served.countries), **by_cities}
    return entries, _table(names.REQUESTED_COUNTRY, countries, nest(not_served))


def _table(header: str, entries: Mapping[str, OnMatch], otherwise: OnMatch) -> OnMatch:
    return nest(by_value(header, entries, otherwise)) if entries else otherwise
