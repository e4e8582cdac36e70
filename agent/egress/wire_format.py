"""The JSON form of an observation, clamped to the bounds that the API accepts.

The API refuses a whole heartbeat for one value out of bounds, and the exit would count as silent.
"""

from __future__ import annotations

import math
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final

from agent.config.status import Observation
from agent.egress.leak_check import MESSAGE_MAX_CHARS

RTT_MAX_MS: Final = 60_000.0
SPEED_MAX_MBPS: Final = 1_000_000.0
_MAXIMA: Final = {"rtt_ms": RTT_MAX_MS, "download_mbps": SPEED_MAX_MBPS, "upload_mbps": SPEED_MAX_MBPS}


def serialize_observation(observation: Observation, now: datetime) -> dict[str, Any]:
    """Convert the fields to JSON values: negative or non-finite numbers to None, times in the future to `now`."""
    return {field.name: _serialize(field.name, getattr(observation, field.name), now) for field in fields(Observation)}


def _serialize(name: str, value: object, now: datetime) -> object:
    if isinstance(value, datetime):
        return min(value, now).astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, str):
        return "".join(letter if letter.isprintable() else "?" for letter in value)[:MESSAGE_MAX_CHARS]
    if isinstance(value, int | float):
        return min(value, _MAXIMA[name]) if math.isfinite(value) and value >= 0 else None
    return value
