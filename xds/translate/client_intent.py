"""What a client asks for, as the gateway's script understands it (envoy/wish.lua); the rules are in docs/routes.md.

It is written twice on purpose: the tests hold the two equal, on a real Envoy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

NOBODYS: Final = "?"
"""What becomes of a value that no name can be."""
_KEYS: Final = frozenset({"country", "city", "pool", "session"})
_LONGEST: Final = 128
_LONGEST_HOST: Final = 255
_LITERAL: Final = re.compile(r":|^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$")


class IntentSource(StrEnum):
    """What says where a client wants to leave, the first one that says anything."""

    HEADERS = "headers"
    USER_NAME = "user name"
    SERVER_NAME = "server name"
    LISTENER = "listener"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class RequestedLocation:
    """Where a source says that a client wants to leave: a pool's name, or a country with or without a city of it."""

    country: str | None = None
    city: str | None = None
    pool: str | None = None

    @property
    def said(self) -> bool:
        return any((self.country, self.city, self.pool))


NOWHERE: Final = RequestedLocation()


@dataclass(frozen=True, slots=True)
class ClientIntent:
    """Where a client wants to leave, and who it is, as routes match on it."""

    source: IntentSource = IntentSource.NOTHING
    place: RequestedLocation = NOWHERE
    session: str | None = None
    user: str | None = None


def understand_wish(
    headers: RequestedLocation,
    session: str | None,
    user_name: str,
    server_name: RequestedLocation,
    listener: RequestedLocation,
) -> ClientIntent:
    """The wish of a client that sends these headers and this user name; the places are as they were written."""
    user, said = read_user(user_name)
    sources = {
        IntentSource.HEADERS: headers,
        IntentSource.USER_NAME: RequestedLocation(said.get("country"), said.get("city"), said.get("pool")),
        IntentSource.SERVER_NAME: server_name,
        IntentSource.LISTENER: listener,
    }
    session = understood_name(session) or understood_name(said.get("session"))
    for source, written in sources.items():
        place = _understood(written)
        if place.said:
            return ClientIntent(source, place, session, understood_name(user))
    return ClientIntent(IntentSource.NOTHING, NOWHERE, session, understood_name(user))


def _understood(written: RequestedLocation) -> RequestedLocation:
    pool = understood_name(written.pool)
    return RequestedLocation(pool=pool) if pool else RequestedLocation(_country(written.country), _city(written.city))


def read_user(user_name: str) -> tuple[str | None, dict[str, str]]:
    """The base user name, and what its keys say: `alice-country-de-session-x` is alice, who wishes for de."""
    words = [*re.finditer(r"[^-]+", user_name)]

    def text_of(first: int, last: int) -> str:
        return user_name[words[first].start() : words[last].end()]

    base, said, index = None, dict[str, str](), 1
    while index < len(words) - 1:
        key = words[index][0]
        if key in _KEYS:
            base = base or text_of(0, index - 1)
            last = index + 1
            while key == "pool" and last < len(words) - 1 and words[last + 1][0] not in _KEYS:
                last += 1
            said.setdefault(key, text_of(index + 1, last))
            index = last
        index += 1
    return (base or text_of(0, len(words) - 1) if words else None), said


def understood_name(text: str | None) -> str | None:
    """A name as routes have it; None for none."""
    if not text:
        return None
    return _without(text, rb"[^!-~]", b"?") if len(text.encode()) <= _LONGEST else NOBODYS


def _country(text: str | None) -> str | None:
    if not text:
        return None
    country = _without(text, rb"[^A-Za-z0-9]", b"?") if len(text.encode()) <= _LONGEST else NOBODYS
    return "gb" if country == "uk" else country


def _city(text: str | None) -> str | None:
    if not text:
        return None
    return (_without(text, rb"[^A-Za-z0-9]", b"") if len(text.encode()) <= _LONGEST else "") or NOBODYS


def _without(text: str, pattern: bytes, instead: bytes) -> str:
    """In lower case, with what does not belong there replaced; byte by byte, as Lua does it."""
    return re.sub(pattern, instead, text.encode()).decode().lower()


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """What a request is for: `domain` is the host's labels reversed, and None for an address."""

    host: str
    port: int
    domain: str | None

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The address that the host is, if it is a literal."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None


def understand_target(host: str, port: int) -> RequestTarget:
    """The target of a request for a host and a port."""
    host = host.rstrip(".")
    if not host or len(host.encode()) > _LONGEST_HOST or ".." in f".{host}":
        return RequestTarget(NOBODYS, port, None)
    host = _without(host, rb"[^A-Za-z0-9.\-_:]", b"?")
    if _LITERAL.search(host):
        return RequestTarget(host, port, None)
    return RequestTarget(host, port, reversed_domain(host))


def reversed_domain(name: str) -> str:
    """`com.example.www.` of `www.example.com`, so that a domain with all below it is a prefix."""
    return "".join(f"{label}." for label in reversed(name.split(".")) if label)
