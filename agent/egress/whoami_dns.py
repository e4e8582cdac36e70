"""Names that reveal who asks for them: what is asked, and how the answer is read.

A zone of one's own answers any name in it. Two public ones have one name each, which is asked for as it is.
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
from agent.egress.types import Location, UnusableAnswer, read_address, read_country, read_text
from agent.net.dns_query import look_up
from model.endpoint import Endpoint

PUBLIC: Final = {
    "whoami.akamai.net": dns.rdatatype.A,
    "o-o.myaddr.l.google.com": dns.rdatatype.TXT,
}
_LABEL_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class ResolverSeen:
    """The resolver that asked a zone, and what the zone says of it beside its address."""

    address: str
    place: Location = field(default_factory=Location)


def read_zone(option: str, text: str) -> str:
    """A zone's name, without the final dot. Raises BadSetting, which names `option`."""
    try:
        name = dns.name.from_text(text.lower())
        # room for the label that is put before it
        dns.name.Name((b"x" * 2 * _LABEL_BYTES, *name.labels))
        plain = len(name.labels) > 2 and name.is_absolute() and text.isascii() and text.isprintable()
    except dns.exception.DNSException:
        plain = False
    if not plain:
        raise BadSetting(f"{option} {text!r} is no zone's name", hint="write a name such as who.example.net")
    return text.lower().rstrip(".")


async def reveal(zone: str, server: Endpoint, interface: str | None = None) -> ResolverSeen:
    """Who asks the zone when `server` is asked for a name in it, by `interface` if one is given. Raises Useless."""
    if zone in PUBLIC:
        return read_asker(await look_up(zone, PUBLIC[zone], server, interface))
    answer = await look_up(_fresh(zone), dns.rdatatype.TXT, server, interface)
    try:
        return read_asker(answer)
    except UnusableAnswer:
        if answer.answer:
            raise
    # a zone that has no text has addresses
    return read_asker(await look_up(_fresh(zone), dns.rdatatype.A, server, interface))


def _fresh(zone: str) -> str:
    """A name that nobody asked for before, so that no answer is remembered."""
    return f"{secrets.token_hex(_LABEL_BYTES)}.{zone}"


def read_asker(answer: dns.message.Message) -> ResolverSeen:
    """The asker in an answer: an A or AAAA record, or text of which one word is an address. Raises Useless.

    Of the words `ip=`, `country=` and `network=` each is taken for what it says; a network may have blanks within one string.
    """
    strings = list(_strings(answer))
    said = dict(each.split("=", 1) for each in strings if "=" in each)
    words = [said["ip"]] if "ip" in said else [word for each in strings for word in each.split()]
    for word in words:
        try:
            address = read_address(word)
        except UnusableAnswer:
            continue
        return ResolverSeen(
            address, Location(country=read_country(said.get("country")), network=read_text(said.get("network")))
        )
    raise UnusableAnswer("it does not say who asked")


def _strings(answer: dns.message.Message) -> Iterator[str]:
    for records in answer.answer:
        for record in records:
            if record.rdtype in {dns.rdatatype.A, dns.rdatatype.AAAA}:
                yield str(record.address)
            elif record.rdtype == dns.rdatatype.TXT:
                for string in record.strings:
                    yield string.decode("ascii", errors="replace")
