"""The combination of all sources' answers, and of all checks, into one observation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.config.status import Observation
from agent.egress.http_sources import Answers
from agent.egress.leak_check import LeakFinding, join_messages
from agent.egress.types import Location, SeenAddress

Locations = Mapping[str, Location]
"""Locations by address, from the Geo-IP file or the geolocation service."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """The egress address by the sources. `seen` is None while that is unknown, and `error` says why.

    `addresses` are all addresses that any source saw, also where it did not know the country.
    """

    seen: SeenAddress | None = None
    addresses: frozenset[str] = frozenset()
    error: str = ""
    conflict: str = ""
    leak: str = ""


def combine(answers: Answers, host_addresses: frozenset[str], locations: Locations) -> Consensus:
    """Choose the first source whose address has a country, by its own answer or by `locations`.

    Other sources and the Geo-IP file that differ are reported as conflict. One of the host's own addresses, seen by any source,
    is a leak.
    """
    found = [(name, _fill_in(each, locations)) for name, each in answers if isinstance(each, SeenAddress)]
    addresses = frozenset(each.address for _, each in found)
    leaks = sorted(addresses & host_addresses)
    leak = f"its traffic leaves from the host's own address {leaks[0]}" if leaks else ""
    with_country = [(name, each) for name, each in found if each.location.country is not None]
    if not with_country:
        failures = [(name, each) for name, each in answers if isinstance(each, str)]
        failures += [(name, f"the country of {each.address} is unknown") for name, each in found]
        return Consensus(None, addresses, join_messages(f"{name}: {why}" for name, why in failures), leak=leak)
    (first_name, first), *_ = with_country
    others = [
        f"{first_name} sees {_describe(first)}, {name} sees {_describe(each)}"
        for name, each in found
        if (each.address, each.location.country) != (first.address, first.location.country)
    ]
    known = locations.get(first.address)
    if known is not None and known.country != first.location.country:
        others.append(f"{first_name} sees {_describe(first)}, the Geo-IP file has it in {known.country}")
    return Consensus(first, addresses, conflict=join_messages(others), leak=leak)


def _fill_in(seen: SeenAddress, locations: Locations) -> SeenAddress:
    """Add from `locations` the fields that the source left out, unless the two name different countries."""
    stated, known = seen.location, locations.get(seen.address)
    if known is None or stated.country not in {None, known.country}:
        return seen
    return replace(
        seen,
        location=Location(
            country=known.country,
            city=stated.city or known.city,
            network=stated.network or known.network,
            time_zone=stated.time_zone or known.time_zone,
        ),
    )


def _describe(seen: SeenAddress) -> str:
    return f"{seen.address} in {seen.location.country or 'no country'}"


def compose_observation(consensus: Consensus, dns: LeakFinding, bypass: LeakFinding, ipv6: LeakFinding) -> Observation:
    """Merge all results into one observation. Any error hides the country, so that the exit is not verified."""
    findings = (dns, bypass, ipv6)
    error = join_messages((consensus.error, *(each.error for each in findings)))
    location = consensus.seen.location if consensus.seen else Location()
    return Observation(
        address=consensus.seen.address if consensus.seen else None,
        address_v6=ipv6.observed,
        country=None if error else location.country,
        city=location.city,
        network=location.network,
        time_zone=location.time_zone,
        resolver=dns.observed,
        error=error,
        conflict=join_messages((consensus.conflict, *(each.note for each in findings))),
        leak=join_messages((consensus.leak, *(each.leak for each in findings))),
    )
