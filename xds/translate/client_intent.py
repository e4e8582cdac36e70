"""The intent of a client as the gateway's script reads it (envoy/client_intent.lua); the rules are in docs/routes.md.

Script and module implement the same rules on purpose: tests compare them on a real Envoy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

INVALID_NAME: Final = "?"
"""Replaces a value that cannot be a name: nothing is called so."""
_KEYS: Final = frozenset({"country", "city", "pool", "session"})
_LONGEST: Final = 128
_LONGEST_HOST: Final = 255
_ENDS_IN_NUMBER: Final = re.compile(r"(^|\.)([0-9]+|0x[0-9a-f]*)$")
"""Matches hosts that some resolvers read as an address, in forms that a route's networks do not match: `127.1`, `0177.0.0.1`."""


class IntentSource(StrEnum):
    """The sources of a requested location, in order: the first that has one decides."""

    HEADERS = "headers"
    USER_NAME = "user name"
    SERVER_NAME = "server name"
    LISTENER = "listener"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class RequestedLocation:
    """The location that a source asks for: a pool's name, or a country with or without one of its cities."""

    country: str | None = None
    city: str | None = None
    pool: str | None = None

    @property
    def is_set(self) -> bool:
        return any((self.country, self.city, self.pool))


NO_LOCATION: Final = RequestedLocation()


@dataclass(frozen=True, slots=True)
class ClientIntent:
    """The requested location and the user of a client, as routes match on them."""

    source: IntentSource = IntentSource.NOTHING
    location: RequestedLocation = NO_LOCATION
    session: str | None = None
    user: str | None = None


def read_intent(
    headers: RequestedLocation,
    session: str | None,
    user_name: str,
    server_name: RequestedLocation,
    listener: RequestedLocation,
) -> ClientIntent:
    """Read the intent of a client from its headers, user name and server name. Locations come as they were written."""
    user, options = parse_user_name(user_name)
    sources = {
        IntentSource.HEADERS: headers,
        IntentSource.USER_NAME: RequestedLocation(options.get("country"), options.get("city"), options.get("pool")),
        IntentSource.SERVER_NAME: server_name,
        IntentSource.LISTENER: listener,
    }
    session = normalise_name(session) or normalise_name(options.get("session"))
    for source, written in sources.items():
        location = _normalise_location(written)
        if location.is_set:
            return ClientIntent(source, location, session, normalise_name(user))
    return ClientIntent(IntentSource.NOTHING, NO_LOCATION, session, normalise_name(user))


def _normalise_location(written: RequestedLocation) -> RequestedLocation:
    pool = normalise_name(written.pool)
    return RequestedLocation(pool=pool) if pool else RequestedLocation(_country(written.country), _city(written.city))


def parse_user_name(user_name: str) -> tuple[str | None, dict[str, str]]:
    """Split a user name into its base and its options: `alice-country-de-session-x` is alice with country de and session x."""
    words = [*re.finditer(r"[^-]+", user_name)]

    def text_of(first: int, last: int) -> str:
        return user_name[words[first].start() : words[last].end()]

    base, options, index = None, dict[str, str](), 1
    while index < len(words) - 1:
        key = words[index][0]
        if key in _KEYS:
            base = base or text_of(0, index - 1)
            last = index + 1
            while key == "pool" and last < len(words) - 1 and words[last + 1][0] not in _KEYS:
                last += 1
            options.setdefault(key, text_of(index + 1, last))
            index = last
        index += 1
    return (base or text_of(0, len(words) - 1) if words else None), options


def normalise_name(text: str | None) -> str | None:
    """Write a name as routes have it; None for an empty one."""
    if not text:
        return None
    return _without(text, rb"[^!-~]", b"?") if len(text.encode()) <= _LONGEST else INVALID_NAME


def _country(text: str | None) -> str | None:
    if not text:
        return None
    country = _without(text, rb"[^A-Za-z0-9]", b"?") if len(text.encode()) <= _LONGEST else INVALID_NAME
    return "gb" if country == "uk" else country


def _city(text: str | None) -> str | None:
    if not text:
        return None
    return (_without(text, rb"[^A-Za-z0-9]", b"") if len(text.encode()) <= _LONGEST else "") or INVALID_NAME


def _without(text: str, pattern: bytes, instead: bytes) -> str:
    """Lower the case and replace bytes that match the pattern. Works on bytes, as Lua does."""
    return re.sub(pattern, instead, text.encode()).decode().lower()


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """The host and port of a request. `domain` is the host's labels reversed, None for an address."""

    host: str
    port: int
    domain: str | None

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The host as an address; None if it is no literal."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None


def parse_target(host: str, port: int) -> RequestTarget:
    """Normalise the host of a request's target. A host that is neither a name nor an address becomes INVALID_NAME."""
    too_long, host = len(host.encode()) > _LONGEST_HOST, host.rstrip(".")
    if too_long or not host or ".." in f".{host}":
        return RequestTarget(INVALID_NAME, port, None)
    host = _without(host, rb"[^A-Za-z0-9.\-_:]", b"?")
    literal = RequestTarget(host, port, None)
    if ":" in host or literal.address is not None:
        return literal
    if _ENDS_IN_NUMBER.search(host):
        return RequestTarget(INVALID_NAME, port, None)
    return RequestTarget(host, port, reversed_domain(host))


def reversed_domain(name: str) -> str:
    """Write `www.example.com` as `com.example.www.`, so that a domain and its subdomains share a prefix."""
    return "".join(f"{label}." for label in reversed(name.split(".")) if label)
