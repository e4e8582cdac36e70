"""The conditions of a route, as predicates on the intent headers and as keys of look-up tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import lru_cache
from ipaddress import ip_network
from typing import Final

from model.entities import Match
from xds.translate import names
from xds.translate.client_intent import reversed_domain
from xds.translate.matchers import Predicate, all_of, any_of, equals, in_networks, matches_regex, starts_with
from xds.translate.number_patterns import port_patterns, window_patterns


class Condition(StrEnum):
    """A field of a match, in the order in which conditions are checked."""

    COUNTRY = "countries"
    CITY = "cities"
    POOL = "pools"
    SESSION = "sessions"
    USER = "users"
    GROUP = "groups"
    DOMAIN = "domains"
    NETWORK = "networks"
    PORT = "ports"
    TIME = "times"


HEADERS: Final[Mapping[Condition, str]] = {
    Condition.COUNTRY: names.REQUESTED_COUNTRY,
    Condition.CITY: names.REQUESTED_CITY,
    Condition.POOL: names.REQUESTED_POOL,
    Condition.SESSION: names.SESSION,
    Condition.USER: names.USER,
    Condition.GROUP: names.GROUP,
    Condition.DOMAIN: names.TARGET_DOMAIN,
    Condition.NETWORK: names.TARGET_HOST,
    Condition.PORT: names.TARGET_PORT,
    Condition.TIME: names.TIME,
}
_MOST_PORTS: Final = 16
"""Ports of a route that are listed one by one in a table; more are matched as ranges."""
_EXACT: Final = (Condition.COUNTRY, Condition.CITY, Condition.POOL, Condition.USER, Condition.GROUP)


@lru_cache(maxsize=20_000)
def lookup_keys(match: Match) -> Mapping[Condition, frozenset[str]]:
    """Return the keys under which tables list a match, by each condition that a table can be by.

    Keys of domains and sessions are prefixes, keys of networks are CIDR.
    """
    found = {condition: values for condition in _EXACT if (values := getattr(match, condition))}
    if match.sessions:
        found[Condition.SESSION] = frozenset(session.removesuffix("*") for session in match.sessions)
        if "" in found[Condition.SESSION]:
            del found[Condition.SESSION]
    if match.domains:
        found[Condition.DOMAIN] = frozenset(map(reversed_domain, match.domains))
    if match.networks:
        found[Condition.NETWORK] = frozenset(str(ip_network(network, strict=False)) for network in match.networks)
    if match.ports and sum(high - low + 1 for low, high in match.ports) <= _MOST_PORTS:
        found[Condition.PORT] = frozenset(str(port) for low, high in match.ports for port in range(low, high + 1))
    return found


@lru_cache(maxsize=20_000)
def build_predicate(match: Match, known: Condition | None = None) -> Predicate | None:
    """Build the predicate of a match without the condition that is known to hold; None if no other is left."""
    if known is Condition.SESSION and any(not session.endswith("*") for session in match.sessions):
        known = None  # the table matched a prefix, and the value may be longer
    found = [
        _meets(condition, values)
        for condition in Condition
        if condition is not known and (values := getattr(match, condition))
    ]
    return all_of(found) if found else None


@lru_cache(maxsize=20_000)
def _meets(condition: Condition, values: frozenset[object]) -> Predicate:
    if condition is Condition.NETWORK:
        return in_networks(HEADERS[condition], [str(ip_network(str(value), strict=False)) for value in values])
    return any_of(sorted(_alternatives(condition, values)))


def _alternatives(condition: Condition, values: frozenset[object]) -> Iterator[Predicate]:
    header = HEADERS[condition]
    for value in values:
        match condition, value:
            case Condition.SESSION, "*":
                yield matches_regex(header, ".+")
            case Condition.SESSION, str(session) if session.endswith("*"):
                yield starts_with(header, session.removesuffix("*"))
            case Condition.DOMAIN, str(domain):
                yield starts_with(header, reversed_domain(domain))
            case Condition.PORT, (int(low), int(high)):
                yield from (matches_regex(header, pattern) for pattern in port_patterns(low, high))
            case Condition.TIME, window:
                yield from (matches_regex(header, pattern) for pattern in window_patterns(window))  # type: ignore[arg-type]
            case _, str(text):
                yield equals(header, text)
