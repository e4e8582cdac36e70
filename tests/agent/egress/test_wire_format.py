"""The API accepts every serialized observation, because a refused heartbeat counts as silence."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.status import Observation
from agent.egress.wire_format import serialize_observation
from api.features.heartbeats.schemas import ExitHeartbeatIn

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_times_are_serialized_in_utc():
    serialized = serialize_observation(Observation(changed_at=NOW - timedelta(hours=1)), NOW)
    assert serialized["changed_at"] == "2026-01-01T11:00:00Z"


def test_future_time_becomes_now():
    assert (
        serialize_observation(Observation(changed_at=NOW + timedelta(days=900)), NOW)["changed_at"]
        == "2026-01-01T12:00:00Z"
    )


@pytest.mark.parametrize(
    ("value", "serialized"), [(12.5, 12.5), (1e9, 60_000.0), (-1.0, None), (float("nan"), None), (float("inf"), None)]
)
def test_impossible_numbers_become_none_or_maximum(value, serialized):
    assert serialize_observation(Observation(rtt_ms=value), NOW)["rtt_ms"] == serialized


NUMBERS = st.none() | st.floats()
TIMES = st.none() | st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 2))  # noqa: DTZ001 - `timezones` adds one
TEXTS = st.text(max_size=2000)


@given(
    st.builds(
        Observation,
        address=st.none() | st.ip_addresses().map(str),
        error=TEXTS,
        conflict=TEXTS,
        leak=TEXTS,
        resolver=st.none() | TEXTS,
        changed_at=TIMES,
        rtt_ms=NUMBERS,
        download_mbps=NUMBERS,
        upload_mbps=NUMBERS,
        speed_measured_at=TIMES,
    )
)
def test_api_accepts_any_observation(observation):
    body = {"envoy": "up", "tunnel": "up", "observation": serialize_observation(observation, NOW)}
    ExitHeartbeatIn.model_validate_json(json.dumps(body, allow_nan=False), context={"now": NOW})
