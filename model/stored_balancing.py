"""Readers of the stored load balancing and resilience of pools: JSON objects of the fields that differ from the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from model.entities import BALANCING, RESILIENCE, Balancing, Policy, Resilience, WeighBy

_FIELDS: Final = frozenset(each.name for each in fields(Resilience))


def read_balancing(stored: Mapping[str, Any]) -> Balancing:
    """Read for example `{"policy": "session"}`."""
    if not stored:
        return BALANCING
    weigh_by = stored.get("weigh_by")
    return Balancing(
        policy=Policy(stored.get("policy", BALANCING.policy)),
        weigh_by=None if weigh_by is None else WeighBy(weigh_by),
        session_ttl_s=stored.get("session_ttl_s"),
    )


def read_resilience(stored: Mapping[str, Any]) -> Resilience:
    """Read for example `{"max_ejection_percent": 50}`."""
    # a newer version beside this one may have stored more fields
    known = {name: value for name, value in stored.items() if name in _FIELDS}
    return Resilience(**known) if known else RESILIENCE
