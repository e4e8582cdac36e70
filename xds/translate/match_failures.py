"""Conditions of routes that a request may fail."""

from __future__ import annotations

from enum import StrEnum


class MatchFailure(StrEnum):
    """Why a route did not decide."""

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
