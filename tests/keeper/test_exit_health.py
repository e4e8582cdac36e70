"""The next state of an exit, as a table by present state and last heartbeat."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from keeper.exit_health import HealthThresholds, judge, updated_reason
from keeper.ingest_window import IngestWindow
from model.exit_states import TAKEN_OUT, ExitState
from model.repositories.exit_reports import ExitReport
from model.repositories.heartbeats import Heartbeat

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
THRESHOLDS = HealthThresholds(unreachable_after=timedelta(seconds=30), lost_after=timedelta(seconds=300))
REGISTERING, HEALTHY, DEGRADED, VERIFYING, UNVERIFIED, LEAKING, UNREACHABLE, LOST, DRAINING, DISABLED = ExitState

GOOD = {"tunnel_up": True, "envoy_up": True, "stopping": False, "reason": "", "version": "1"}
TUNNEL_DOWN = GOOD | {"tunnel_up": False, "reason": "no handshake for 180 s"}
ENVOY_DOWN = GOOD | {"envoy_up": False}
STOPPING = GOOD | {"stopping": True}
AT_HOME = GOOD | {"observation": {"address": "192.0.2.1", "country": "us", "leak": "", "error": ""}}
ABROAD = GOOD | {"observation": AT_HOME["observation"] | {"country": "fr"}}
NOWHERE = GOOD | {"observation": {"address": None, "country": None, "error": "geo: it cannot be reached"}}
LEAKY = GOOD | {"observation": AT_HOME["observation"] | {"leak": "its traffic leaves from the host's own address"}}

DISPUTED = GOOD | {"observation": AT_HOME["observation"] | {"conflict": "a sees fr"}}

HEARTBEATS = {
    # the heartbeat, its age in seconds, and whether it came before or since the start of the state
    "nothing yet": None,
    "all is well": (GOOD, 5, "since"),
    "all was well before": (GOOD, 5, "before"),
    "the tunnel is down": (TUNNEL_DOWN, 5, "since"),
    "the tunnel was down before": (TUNNEL_DOWN, 5, "before"),
    "its Envoy is down": (ENVOY_DOWN, 5, "since"),
    "it leaves": (STOPPING, 5, "since"),
    "silence": (GOOD, 31, "since"),
    "silence from before": (GOOD, 31, "before"),
    "long silence": (GOOD, 301, "since"),
    "long silence after a complaint": (TUNNEL_DOWN, 301, "since"),
    "long silence after it left": (STOPPING, 301, "since"),
    "long silence from before": (GOOD, 301, "before"),
    "it comes out at home": (AT_HOME, 5, "since"),
    "it comes out abroad": (ABROAD, 5, "since"),
    "it came out abroad before": (ABROAD, 5, "before"),
    "nobody knows where it comes out": (NOWHERE, 5, "since"),
    "its sources disagree": (DISPUTED, 5, "since"),
    "it leaks": (LEAKY, 5, "since"),
    "it leaks and has ended its Envoy": (LEAKY | {"envoy_up": False}, 5, "since"),
    "it leaked before": (LEAKY, 5, "before"),
    "it leaks and its tunnel is down": (LEAKY | {"tunnel_up": False, "reason": "why"}, 5, "since"),
}
STAYS = None
NEXT_STATES = {
    "nothing yet": (STAYS, STAYS, STAYS, STAYS, STAYS, STAYS, STAYS, STAYS, STAYS, STAYS),
    "all is well": (HEALTHY, STAYS, HEALTHY, HEALTHY, HEALTHY, HEALTHY, HEALTHY, HEALTHY, STAYS, STAYS),
    "all was well before": (STAYS, STAYS, HEALTHY, STAYS, STAYS, STAYS, STAYS, STAYS, STAYS, STAYS),
    "the tunnel is down": (
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        STAYS,
        UNREACHABLE,
        STAYS,
        STAYS,
    ),
    "the tunnel was down before": (
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        STAYS,
        STAYS,
        STAYS,
        STAYS,
    ),
    "its Envoy is down": (
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        STAYS,
        UNREACHABLE,
        STAYS,
        STAYS,
    ),
    "it leaves": (
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        STAYS,
        UNREACHABLE,
        STAYS,
        STAYS,
    ),
    "silence": (
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        STAYS,
        UNREACHABLE,
        STAYS,
        STAYS,
    ),
    "silence from before": (
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        STAYS,
        STAYS,
        STAYS,
        STAYS,
    ),
    "long silence": (LOST, LOST, LOST, LOST, LOST, LOST, LOST, STAYS, STAYS, STAYS),
    "long silence after a complaint": (LOST, LOST, LOST, LOST, LOST, LOST, LOST, STAYS, STAYS, STAYS),
    "long silence after it left": (LOST, LOST, LOST, LOST, LOST, LOST, LOST, STAYS, STAYS, STAYS),
    "long silence from before": (LOST, LOST, LOST, LOST, LOST, LOST, LOST, STAYS, STAYS, STAYS),
    "it comes out at home": (HEALTHY, STAYS, HEALTHY, HEALTHY, HEALTHY, HEALTHY, HEALTHY, HEALTHY, STAYS, STAYS),
    "it comes out abroad": (
        VERIFYING,
        VERIFYING,
        VERIFYING,
        STAYS,
        VERIFYING,
        VERIFYING,
        VERIFYING,
        VERIFYING,
        STAYS,
        STAYS,
    ),
    "it came out abroad before": (STAYS, VERIFYING, VERIFYING, STAYS, STAYS, STAYS, STAYS, STAYS, STAYS, STAYS),
    "nobody knows where it comes out": (
        VERIFYING,
        VERIFYING,
        VERIFYING,
        STAYS,
        VERIFYING,
        VERIFYING,
        VERIFYING,
        VERIFYING,
        STAYS,
        STAYS,
    ),
    "it leaks": (LEAKING, LEAKING, LEAKING, LEAKING, LEAKING, STAYS, LEAKING, LEAKING, STAYS, STAYS),
    "it leaks and has ended its Envoy": (
        LEAKING,
        LEAKING,
        LEAKING,
        LEAKING,
        LEAKING,
        STAYS,
        LEAKING,
        LEAKING,
        STAYS,
        STAYS,
    ),
    "it leaked before": (STAYS, LEAKING, LEAKING, STAYS, STAYS, STAYS, STAYS, STAYS, STAYS, STAYS),
    "it leaks and its tunnel is down": (
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        UNREACHABLE,
        STAYS,
        UNREACHABLE,
        STAYS,
        STAYS,
    ),
    "its sources disagree": (DEGRADED, DEGRADED, STAYS, DEGRADED, DEGRADED, DEGRADED, DEGRADED, DEGRADED, STAYS, STAYS),
}


def report(state: ExitState, heard: str) -> ExitReport:
    if HEARTBEATS[heard] is None:
        return ExitReport(UUID(int=1), state, NOW, None, "us")
    said, ago_s, order = HEARTBEATS[heard]
    heard_at = NOW - timedelta(seconds=ago_s)
    since = heard_at + timedelta(seconds=1 if order == "before" else -1)
    return ExitReport(UUID(int=1), state, since, Heartbeat(UUID(int=1), heard_at, heard_at, **said), "us")


def window_of(seconds: float) -> IngestWindow:
    """Return an ingest window of this length."""
    window = IngestWindow()
    for ago_s in [*range(int(seconds), 0, -4), 0]:
        at = NOW - timedelta(seconds=ago_s)
        window.observe(at, at)
    return window


@pytest.mark.parametrize("heard", NEXT_STATES)
@pytest.mark.parametrize("state", ExitState)
def test_next_state_follows_from_state_and_heartbeat(state, heard):
    verdict = judge(report(state, heard), window_of(3600), THRESHOLDS)
    assert (verdict and verdict.state) == NEXT_STATES[heard][list(ExitState).index(state)]


@pytest.mark.parametrize("state", sorted({*ExitState} - {UNVERIFIED, *TAKEN_OUT}))
def test_exit_that_nothing_verifies_is_not_offered(state):
    strict = replace(report(state, "all is well"), allow_unverified=False)
    verdict = judge(strict, window_of(3600), THRESHOLDS)
    assert (verdict.state, verdict.reason.partition(":")[0]) == (UNVERIFIED, "its agent observes nothing")
    observed = replace(report(state, "it comes out at home"), allow_unverified=False)
    assert judge(observed, window_of(3600), THRESHOLDS) == judge(
        report(state, "it comes out at home"), window_of(3600), THRESHOLDS
    )


@pytest.mark.parametrize("heard", NEXT_STATES)
@pytest.mark.parametrize("state", ExitState)
def test_silence_without_ingest_moves_no_exit(state, heard):
    closed = IngestWindow()
    closed.observe(NOW, None)
    verdict = judge(report(state, heard), closed, THRESHOLDS)
    assert verdict is None or "silent" not in verdict.reason
    if "silence" in heard and "complaint" not in heard and "left" not in heard:
        assert verdict is None or verdict.state is HEALTHY
        assert verdict is None or state in (REGISTERING, DEGRADED, VERIFYING, UNVERIFIED, LEAKING, UNREACHABLE, LOST)


@pytest.mark.parametrize(
    ("heard", "reason"),
    [
        ("all is well", ""),
        ("the tunnel is down", "its tunnel is down: no handshake for 180 s"),
        ("its Envoy is down", "its Envoy is down"),
        ("it leaves", "its agent was stopped"),
        ("silence", "silent for 31 s"),
        ("long silence", "silent for 301 s"),
    ],
)
def test_verdict_has_a_reason(heard, reason):
    verdict = judge(report(REGISTERING, heard), window_of(3600), THRESHOLDS)
    assert verdict.reason == reason


@pytest.mark.parametrize(
    ("state", "said", "heard", "by_now"),
    [
        (UNREACHABLE, "its Envoy is down", "the tunnel is down", "its tunnel is down: no handshake for 180 s"),
        (UNREACHABLE, "its tunnel is down: no handshake for 75.5 s", "the tunnel is down", None),
        (VERIFYING, "its address is not known yet", "nobody knows where it comes out", "geo: it cannot be reached"),
        (
            VERIFYING,
            "it stopped serving 6 times: it has to be up for 60 s",
            "it comes out at home",
            None,
        ),  # it is held down
        (DEGRADED, "it carries 9 requests", "its sources disagree", "sources disagree: a sees fr"),
        (HEALTHY, "", "all is well", None),
        (DISABLED, "by ada", "the tunnel is down", None),
        (REGISTERING, "", "nothing yet", None),
    ],
)
def test_reason_is_updated_when_more_than_its_numbers_changed(state, said, heard, by_now):
    known = replace(report(state, heard), reason=said)
    assert updated_reason(known, window_of(3600), THRESHOLDS) == by_now


@pytest.mark.parametrize(("ago_s", "state"), [(30, None), (30.1, UNREACHABLE), (300, UNREACHABLE), (300.1, LOST)])
def test_thresholds_are_exclusive(ago_s, state):
    beat = Heartbeat(UUID(int=1), NOW - timedelta(seconds=ago_s), NOW, **GOOD)
    verdict = judge(ExitReport(UUID(int=1), HEALTHY, NOW, beat, "us"), window_of(3600), THRESHOLDS)
    assert (verdict and verdict.state) == state


@pytest.mark.parametrize(("after_s", "state"), [(-0.001, None), (0, None), (0.001, HEALTHY)])
def test_heartbeat_is_new_only_after_the_state_began(after_s, state):
    beat = Heartbeat(UUID(int=1), NOW, NOW, **GOOD)
    known = ExitReport(UUID(int=1), UNREACHABLE, NOW - timedelta(seconds=after_s), beat, "us")
    verdict = judge(known, window_of(3600), THRESHOLDS)
    assert (verdict and verdict.state) == state
