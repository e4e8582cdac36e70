"""What all sources together say, and what that makes with the other findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.config.status import Observation
from agent.egress.finding import LeakFinding, joined
from agent.egress.http_sources import Answers
from agent.egress.types import Location, SeenAddress

Places = Mapping[str, Location]
"""Where addresses are, as far as the Geo-IP file or the service for addresses knows."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """Where traffic comes out, by the sources; `sight` is None, and `trouble` says why, while that is not known.

    `addresses` are all that were seen, also by sources whose word is of no use otherwise.
    """

    sight: SeenAddress | None = None
    addresses: frozenset[str] = frozenset()
    trouble: str = ""
    told: str = ""
    leak: str = ""


def combine(answers: Answers, host_addresses: frozenset[str], places: Places) -> Consensus:
    """The first source's word counts, and where it does not know the country, `places`'.

    Where another source or the Geo-IP file says otherwise, that is told, not hidden. An address that is the host's own is a leak,
    whoever saw it.
    """
    found = [(name, _filled(each, places)) for name, each in answers if isinstance(each, SeenAddress)]
    addresses = frozenset(each.address for _, each in found)
    leaks = sorted(addresses & host_addresses)
    leak = f"its traffic leaves from the host's own address {leaks[0]}" if leaks else ""
    named = [(name, each) for name, each in found if each.place.country is not None]
    if not named:
        failures = [(name, each) for name, each in answers if isinstance(each, str)]
        failures += [(name, f"nobody says where {each.address} is") for name, each in found]
        return Consensus(None, addresses, joined(f"{name}: {why}" for name, why in failures), leak=leak)
    (first_name, first), *_ = named
    others = [
        f"{first_name} sees {_said(first)}, {name} sees {_said(each)}"
        for name, each in found
        if (each.address, each.place.country) != (first.address, first.place.country)
    ]
    known = places.get(first.address)
    if known is not None and known.country != first.place.country:
        others.append(f"{first_name} sees {_said(first)}, the Geo-IP file has it in {known.country}")
    return Consensus(first, addresses, told=joined(others), leak=leak)


def _filled(sight: SeenAddress, places: Places) -> SeenAddress:
    """A sight with what its source did not say, unless it contradicts what it said."""
    said, known = sight.place, places.get(sight.address)
    if known is None or said.country not in {None, known.country}:
        return sight
    return replace(
        sight,
        place=Location(
            country=known.country,
            city=said.city or known.city,
            network=said.network or known.network,
            time_zone=said.time_zone or known.time_zone,
        ),
    )


def _said(sight: SeenAddress) -> str:
    return f"{sight.address} in {sight.place.country or 'no country'}"


def compose(outcome: Consensus, names: LeakFinding, bypass: LeakFinding, ipv6: LeakFinding) -> Observation:
    """One observation of all. With any trouble no country is told: what is not known to be right is not verified."""
    findings = (names, bypass, ipv6)
    trouble = joined((outcome.trouble, *(each.trouble for each in findings)))
    place = outcome.sight.place if outcome.sight else Location()
    return Observation(
        address=outcome.sight.address if outcome.sight else None,
        address_v6=ipv6.seen,
        country=None if trouble else place.country,
        city=place.city,
        network=place.network,
        time_zone=place.time_zone,
        resolver=names.seen,
        trouble=trouble,
        disagreement=joined((outcome.told, *(each.told for each in findings))),
        leak=joined((outcome.leak, *(each.leak for each in findings))),
    )
