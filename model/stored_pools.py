"""Readers of the stored load balancing and resilience of pools: JSON objects of the fields that differ from the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from model.entities import BALANCING, RESILIENCE, Balancing, Policy, Resilience, WeighBy

_FIELDS: Final = frozenset(each.name for each in fields(Resilience))
_FORMER_NAMES: Final = {"falls_borne": "flap_threshold", "falls_window_s": "flap_window_s"}
"""Names that release 0.1.0 stores, which may serve alongside this version. Migration 0009 renames them in older rows."""
_POLICIES: Final = frozenset(Policy)
_WEIGH_BY: Final = frozenset(WeighBy)


def read_balancing(stored: Mapping[str, Any]) -> Balancing:
    """Read for example `{"policy": "session"}`."""
    if not stored:
        return BALANCING
    # a newer version alongside this one may have stored values that this one does not know: they read as the default
    policy, weigh_by = stored.get("policy"), stored.get("weigh_by")
    return Balancing(
        policy=Policy(policy) if policy in _POLICIES else BALANCING.policy,
        weigh_by=WeighBy(weigh_by) if weigh_by in _WEIGH_BY else None,
        session_ttl_s=stored.get("session_ttl_s"),
    )


def read_resilience(stored: Mapping[str, Any]) -> Resilience:
    """Read for example `{"unhealthy_after": 3}`."""
    renamed = {name: stored[former] for former, name in _FORMER_NAMES.items() if former in stored}
    # a newer version alongside this one may have stored more fields, and an older one did (ejections)
    known = {name: value for name, value in {**renamed, **stored}.items() if name in _FIELDS}
    return Resilience(**known) if known else RESILIENCE
