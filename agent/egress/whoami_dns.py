"""DNS zones that answer with the address of the resolver that queries them.

A private zone answers any name in it. The two public zones have one name each, so their answers may come from a cache.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import dns.exception
import dns.message
import dns.name
import dns.rdatatype

from agent.config.option_parsing import BadSetting
from agent.egress.types import Location, UnusableAnswer, parse_address, parse_country, parse_text
from agent.net.dns_query import look_up
from model.endpoint import Endpoint

PUBLIC: Final = {
    "whoami.akamai.net": dns.rdatatype.A,
    "o-o.myaddr.l.google.com": dns.rdatatype.TXT,
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
        return parse_resolver(await look_up(zone, PUBLIC[zone], server, interface))
    answer = await look_up(_generate_name(zone), dns.rdatatype.TXT, server, interface)
    try:
        return parse_resolver(answer)
    except UnusableAnswer:
        if answer.answer:
            raise
    # a zone without TXT records answers A queries
    return parse_resolver(await look_up(_generate_name(zone), dns.rdatatype.A, server, interface))


def _generate_name(zone: str) -> str:
    """Return a new name in the zone, so that no cache can answer."""
    return f"{secrets.token_hex(_LABEL_BYTES)}.{zone}"


def parse_resolver(answer: dns.message.Message) -> ResolverSeen:
    """Parse the resolver in an answer: an A or AAAA record, or a TXT record with an address as one of its words.

    TXT strings `ip=`, `country=` and `network=` are fields; a network may contain spaces. Raises UnusableAnswer.
    """
    strings = list(_iterate_strings(answer))
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


def _iterate_strings(answer: dns.message.Message) -> Iterator[str]:
    for records in answer.answer:
        for record in records:
            if record.rdtype in {dns.rdatatype.A, dns.rdatatype.AAAA}:
                yield str(record.address)
            elif record.rdtype == dns.rdatatype.TXT:
                for string in record.strings:
                    yield string.decode("ascii", errors="replace")
