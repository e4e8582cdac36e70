"""DNS zones that answer with the address of the resolver that queries them.

A private zone answers any name in it. The two public zones have one name each, so their answers may come from a cache.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Final

import dns.exception
import dns.name
from dns.rdatatype import RdataType

from agent.config.option_parsing import BadSetting
from agent.egress.types import Location, UnusableAnswer, parse_address, parse_country, parse_text
from agent.net.dns_client import TXT, A, DnsAnswer, DnsError, query
from model.endpoint import Endpoint

PUBLIC: Final = {
    "whoami.akamai.net": A,
    "o-o.myaddr.l.google.com": TXT,
}
_LABEL_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class ResolverSeen:
    """The resolver that queried a zone, and the location that the zone states for it."""

    address: str
    location: Location = field(default_factory=Location)


def parse_zone(option: str, text: str) -> str:
    """Parse a zone's name and strip the final dot. Raises BadSetting, which names `option`."""
    try:
        name = dns.name.from_text(text.lower())
        # there must be room for the random label in front
        dns.name.Name((b"x" * 2 * _LABEL_BYTES, *name.labels))
        valid = len(name.labels) > 2 and name.is_absolute() and text.isascii() and text.isprintable()
    except dns.exception.DNSException:
        valid = False
    if not valid:
        raise BadSetting(f"{option} {text!r} is no zone's name", hint="write a name such as who.example.net")
    return text.lower().rstrip(".")


async def identify_resolver(zone: str, server: Endpoint, interface: str | None = None) -> ResolverSeen:
    """Find the resolver that queries the zone when `server` is asked for a name in it, bound to `interface` if one is given.

    Raises UnusableAnswer.
    """
    if zone in PUBLIC:
        return parse_resolver(await _query(zone, PUBLIC[zone], server, interface))
    answer = await _query(_generate_name(zone), TXT, server, interface)
    try:
        return parse_resolver(answer)
    except UnusableAnswer:
        if answer.texts or answer.addresses:
            raise
    # a zone without TXT records answers A queries
    return parse_resolver(await _query(_generate_name(zone), A, server, interface))


async def _query(name: str, kind: RdataType, server: Endpoint, interface: str | None) -> DnsAnswer:
    try:
        answer = await query(name, kind, server, interface=interface)
        answer.raise_for_rcode()
    except DnsError as error:
        raise UnusableAnswer(str(error)) from error
    return answer


def _generate_name(zone: str) -> str:
    """Return a new name in the zone, so that no cache can answer."""
    return f"{secrets.token_hex(_LABEL_BYTES)}.{zone}"


def parse_resolver(answer: DnsAnswer) -> ResolverSeen:
    """Parse the resolver in an answer: an A or AAAA record, or a TXT record with an address as one of its words.

    TXT strings `ip=`, `country=` and `network=` are fields; a network may contain spaces. Raises UnusableAnswer.
    """
    strings = [*answer.texts, *answer.addresses]
    fields = dict(each.split("=", 1) for each in strings if "=" in each)
    words = [fields["ip"]] if "ip" in fields else [word for each in strings for word in each.split()]
    for word in words:
        try:
            address = parse_address(word)
        except UnusableAnswer:
            continue
        return ResolverSeen(
            address, Location(country=parse_country(fields.get("country")), network=parse_text(fields.get("network")))
        )
    raise UnusableAnswer("its answer names no resolver")
