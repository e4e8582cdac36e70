"""Names that reveal who asks for them: what is asked, and how the answer is read.

A zone of one's own answers any name in it. Two public ones have one name each, which is asked for as it is.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Final

import dns.exception
import dns.name
from dns.rdatatype import RdataType

from agent.config.option_parsing import BadSetting
from agent.egress.types import Location, UnusableAnswer, read_address, read_country, read_text
from agent.net.dns_client import TXT, A, DnsAnswer, DnsError, query
from model.endpoint import Endpoint

PUBLIC: Final = {
    "whoami.akamai.net": A,
    "o-o.myaddr.l.google.com": TXT,
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
        return read_asker(await _ask(zone, PUBLIC[zone], server, interface))
    answer = await _ask(_fresh(zone), TXT, server, interface)
    try:
        return read_asker(answer)
    except UnusableAnswer:
        if answer.texts or answer.addresses:
            raise
    # a zone that has no text has addresses
    return read_asker(await _ask(_fresh(zone), A, server, interface))


async def _ask(name: str, kind: RdataType, server: Endpoint, interface: str | None) -> DnsAnswer:
    try:
        answer = await query(name, kind, server, interface=interface)
        answer.raise_for_rcode()
    except DnsError as error:
        raise UnusableAnswer(str(error)) from error
    return answer


def _fresh(zone: str) -> str:
    """A name that nobody asked for before, so that no answer is remembered."""
    return f"{secrets.token_hex(_LABEL_BYTES)}.{zone}"


def read_asker(answer: DnsAnswer) -> ResolverSeen:
    """The asker in an answer: an A or AAAA record, or text of which one word is an address. Raises Useless.

    Of the words `ip=`, `country=` and `network=` each is taken for what it says; a network may have blanks within one string.
    """
    strings = [*answer.texts, *answer.addresses]
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
