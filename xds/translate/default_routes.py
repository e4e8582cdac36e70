"""Where a wish leads that no route decides: to the pool that it names, or to one that serves the city or the country.

Hash look-ups, however many pools there are. Never from a city to its country: who asked for Berlin would rather be refused than
leave elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from model.entities import Pool
from xds.translate import names
from xds.translate.destinations import Destination, evenly
from xds.translate.direct_responses import (
    CITY_ALONE,
    no_city_of_country,
    no_city_served,
    no_country_served,
    no_such_pool,
    nothing_asked,
)
from xds.translate.matchers import OnMatch, Predicate, all_of, by_value, first_of, go_into, is_there, unless
from xds.translate.route_actions import forward, lead_to, refuse


@dataclass(frozen=True, slots=True)
class ServedLocations:
    """What a fleet's pools serve. Of several that serve the same, the last by id is meant."""

    by_name: Mapping[str, Pool]
    countries: Mapping[str, Pool]
    """By country: those without a city."""
    cities: Mapping[str, Mapping[str, Pool]] = field(default_factory=dict)
    """By country and city."""

    def of_country(self, country: str) -> tuple[Destination, ...]:
        """Where the wish for a country leads; empty where it is not served."""
        if country in self.countries:
            return (Destination(1, (self.countries[country],)),)
        return evenly([pool for _, pool in sorted(self.cities.get(country, {}).items())])

    @property
    def all_countries(self) -> frozenset[str]:
        return frozenset((*self.countries, *self.cities))


def what_is_served(pools: Iterable[Pool]) -> ServedLocations:
    """What these pools serve."""
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


def refuse_city_alone() -> tuple[Predicate, OnMatch]:
    """Ahead of all routes: a city of which nobody knows where it is."""
    return all_of([is_there(names.WISHED_CITY), unless(is_there(names.WISHED_COUNTRY))]), refuse(CITY_ALONE)


def default_way(served: ServedLocations) -> tuple[Sequence[tuple[Predicate, OnMatch]], OnMatch]:
    """Where wishes lead for a pool, and for a city; and all others: those for a country, and none."""
    ways = {
        id(pool): lead_to(pool) for pool in served.by_name.values()
    }  # once each: to find one costs what hashing it does

    def way(pool: Pool) -> OnMatch:
        return ways.get(id(pool)) or lead_to(pool)

    def ways_to(pools: Mapping[str, Pool]) -> Mapping[str, OnMatch]:
        return {key: way(pool) for key, pool in pools.items()}

    cities = {
        country: _table(names.WISHED_CITY, ways_to(of_country), refuse(no_city_served(of_country, country)))
        for country, of_country in served.cities.items()
    }
    entries = [
        (
            is_there(names.WISHED_POOL),
            _table(names.WISHED_POOL, ways_to(served.by_name), refuse(no_such_pool(served.by_name))),
        ),
        (is_there(names.WISHED_CITY), _table(names.WISHED_COUNTRY, cities, refuse(no_city_of_country(cities)))),
    ]
    all_countries = served.all_countries
    refusal = first_of(
        [(is_there(names.WISHED_COUNTRY), refuse(no_country_served(all_countries)))],
        refuse(nothing_asked(all_countries)),
    )
    by_cities = {country: forward(served.of_country(country)) for country in all_countries - served.countries.keys()}
    countries = {**ways_to(served.countries), **by_cities}
    return entries, _table(names.WISHED_COUNTRY, countries, go_into(refusal))


def _table(header: str, entries: Mapping[str, OnMatch], otherwise: OnMatch) -> OnMatch:
    return go_into(by_value(header, entries, otherwise)) if entries else otherwise
