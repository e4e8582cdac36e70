"""The conditions of a route that a request may fail."""

from __future__ import annotations

from enum import StrEnum


class MatchFailure(StrEnum):
    """The first condition of a route that a request failed."""

    COUNTRY = "country"
    CITY = "city"
    POOL = "pool"
    SESSION = "session"
    USER = "user"
    GROUP = "group"
    DOMAIN = "domain"
    NETWORK = "network"
    PORT = "port"
    TIME = "time"
