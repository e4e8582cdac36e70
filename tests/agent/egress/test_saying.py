"""An observation never goes out in a form that the control plane refuses: a refused heartbeat is silence."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.status import Observation
from agent.egress.wire_format import as_said
from api.features.heartbeats.schemas import ExitHeartbeatIn

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_times_are_written_in_utc():
    told = as_said(Observation(changed_at=NOW - timedelta(hours=1)), NOW)
    assert told["changed_at"] == "2026-01-01T11:00:00Z"


def test_a_time_that_a_wrong_clock_put_into_the_future_is_now():
    assert as_said(Observation(changed_at=NOW + timedelta(days=900)), NOW)["changed_at"] == "2026-01-01T12:00:00Z"


@pytest.mark.parametrize(
    ("value", "told"), [(12.5, 12.5), (1e9, 60_000.0), (-1.0, None), (float("nan"), None), (float("inf"), None)]
)
def test_impossible_numbers_are_left_out_or_bounded(value, told):
    assert as_said(Observation(rtt_ms=value), NOW)["rtt_ms"] == told


NUMBERS = st.none() | st.floats()
TIMES = st.none() | st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 2))  # noqa: DTZ001 - they get one
TEXTS = st.text(max_size=2000)


@given(
    st.builds(
        Observation,
        address=st.none() | st.ip_addresses().map(str),
        trouble=TEXTS,
        disagreement=TEXTS,
        leak=TEXTS,
        resolver=st.none() | TEXTS,
        changed_at=TIMES,
        rtt_ms=NUMBERS,
        download_mbps=NUMBERS,
        upload_mbps=NUMBERS,
        speed_measured_at=TIMES,
    )
)
def test_whatever_was_seen_the_control_plane_takes_it(observation):
    body = {"envoy": "up", "tunnel": "up", "observation": as_said(observation, NOW)}
    ExitHeartbeatIn.model_validate_json(json.dumps(body, allow_nan=False), context={"now": NOW})
