"""Readers of stored routes: a match and an action as JSON, with the fields of the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from model.entities import Action, Allow, Deny, Match, ToPools, Window

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def read_match(stored: Mapping[str, Any]) -> Match:
    """Read a stored match; a missing or empty field is no condition.

    For example `{"countries": ["de"], "ports": ["443", "8000-8999"],
    "times": [{"days": ["mon"], "from": "09:00", "to": "17:30"}]}`.
    """
    plain = ("countries", "cities", "pools", "sessions", "users", "groups", "domains", "networks")
    return Match(
        **{name: frozenset(stored.get(name) or ()) for name in plain},
        ports=frozenset(read_ports(text) for text in stored.get("ports") or ()),
        times=frozenset(_window(each) for each in stored.get("times") or ()),
    )


def read_action(stored: Mapping[str, Any]) -> Action:
    """Read a stored action.

    One of `{"pools": [{"id": …, "weight": 3}], "fallback": [id, …]}`, `{"allow": true}` and
    `{"deny": {"status": 403, "text": …}}`.
    """
    if "deny" in stored:
        return Deny(stored["deny"]["status"], stored["deny"]["text"])
    if "pools" not in stored:
        return Allow()
    weighted = tuple((UUID(each["id"]), each["weight"]) for each in stored["pools"])
    return ToPools(weighted, tuple(map(UUID, stored.get("fallback") or ())))


def pools_of(stored: Mapping[str, Any]) -> frozenset[UUID]:
    """Return the pools that a stored action leads to."""
    action = read_action(stored)
    return (
        frozenset([*(pool for pool, _ in action.weighted), *action.fallback])
        if isinstance(action, ToPools)
        else frozenset()
    )


def read_ports(text: str) -> tuple[int, int]:
    """Read "443" or "8000-8999" as an inclusive range."""
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def read_minute(text: str) -> int:
    """Read "09:30" as a minute of the day; "24:00" is its end."""
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)


def _window(stored: Mapping[str, Any]) -> Window:
    days = frozenset(DAYS.index(day) for day in stored.get("days") or DAYS)
    return Window(days, read_minute(stored["from"]), read_minute(stored["to"]))
