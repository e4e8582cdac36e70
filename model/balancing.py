"""Balancing and resilience of pools as they are stored: JSON objects of what is not as by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from model.world import BALANCING, RESILIENCE, Balancing, Policy, Resilience

_KNOBS: Final = frozenset(each.name for each in fields(Resilience))


def read_balancing(stored: Mapping[str, Any]) -> Balancing:
    """For example `{"policy": "session"}`."""
    return Balancing(Policy(stored["policy"])) if "policy" in stored else BALANCING


def read_resilience(stored: Mapping[str, Any]) -> Resilience:
    """For example `{"max_ejection_percent": 50}`."""
    # a newer version beside this one may know of more
    known = {name: value for name, value in stored.items() if name in _KNOBS}
    return Resilience(**known) if known else RESILIENCE
