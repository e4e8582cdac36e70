"""An observation as a heartbeat says it: within the bounds that the control plane takes, whatever was measured.

A heartbeat that is refused would be silence, and the exit would be taken out for a clock that once was wrong.
"""

from __future__ import annotations

import math
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final

from agent.config.status import Observation
from agent.egress.finding import TOLD_MAX

RTT_MAX_MS: Final = 60_000.0
SPEED_MAX_MBPS: Final = 1_000_000.0
_MAXIMA: Final = {"rtt_ms": RTT_MAX_MS, "download_mbps": SPEED_MAX_MBPS, "upload_mbps": SPEED_MAX_MBPS}


def as_said(observation: Observation, now: datetime) -> dict[str, Any]:
    """The fields as JSON values. A number that is none is left out; a time that has not come yet is now."""
    return {field.name: _said(field.name, getattr(observation, field.name), now) for field in fields(Observation)}


def _said(name: str, value: object, now: datetime) -> object:
    if isinstance(value, datetime):
        return min(value, now).astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, str):
        return "".join(letter if letter.isprintable() else "?" for letter in value)[:TOLD_MAX]
    if isinstance(value, int | float):
        return min(value, _MAXIMA[name]) if math.isfinite(value) and value >= 0 else None
    return value
