"""Silence counts only within the ingest window, whatever broke the window before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from keeper.ingest_window import MAX_GAP, IngestWindow

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=1)


def s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def observe_every_second(window: IngestWindow, start: datetime, seconds: float) -> datetime:
    """Observe every second while the API flushes, and return the time of the last observation."""
    for second in range(int(seconds) + 1):
        window.observe(start + s(second), start + s(second))
    return start + s(int(seconds))


def test_no_silence_before_the_first_observation():
    assert IngestWindow().silence(LONG_AGO) == s(0)


def test_silence_counts_from_the_first_observation():
    window = IngestWindow()
    observe_every_second(window, NOW, 60)
    assert window.silence(LONG_AGO) == s(60)


def test_silence_counts_from_the_last_heartbeat():
    window = IngestWindow()
    observe_every_second(window, NOW, 60)
    assert window.silence(NOW + s(45)) == s(15)


def test_heartbeat_from_the_future_is_no_silence():
    window = IngestWindow()
    now = observe_every_second(window, NOW, 60)
    assert window.silence(now + s(10)) == s(0)


def test_no_silence_without_a_watermark():
    window = IngestWindow()
    for second in range(60):
        window.observe(NOW + s(second), None)
    assert window.silence(LONG_AGO) == s(0)


def test_outage_of_the_api_is_no_silence_and_resets_the_window():
    window = IngestWindow()
    down = observe_every_second(window, NOW, 60)
    for second in range(40):
        window.observe(down + s(second), down)
    assert window.silence(LONG_AGO) == s(0)
    observe_every_second(window, down + s(40), 10)
    assert window.silence(LONG_AGO) == s(10)


def test_short_gap_between_flushes_keeps_the_window():
    window = IngestWindow()
    down = observe_every_second(window, NOW, 60)
    for second in range(1, 5):
        window.observe(down + s(second), down)
    observe_every_second(window, down + s(5), 5)
    assert window.silence(LONG_AGO) == s(70)


def test_silence_stops_as_soon_as_nothing_can_be_received():
    """An exit that sent its last heartbeat 28 s ago is not silent for 30 s because of 3 s in which none could get in."""
    window = IngestWindow()
    now = observe_every_second(window, NOW, 60)
    for second in (1, 2, 3):
        window.observe(now + s(second), now)
    assert window.silence(now - s(28)) == s(28)
    assert window.silence_cutoff(s(28)) == now - s(28)


def test_gap_between_observations_resets_the_window():
    """PostgreSQL was away, the process was paused, or its machine was suspended."""
    window = IngestWindow()
    away = observe_every_second(window, NOW, 60)
    back = away + s(120)
    window.observe(back, back)
    assert window.silence(LONG_AGO) == s(0)


def test_clock_that_jumps_ahead_makes_no_silence():
    window = IngestWindow()
    jumped = observe_every_second(window, NOW, 60) + timedelta(hours=1)
    observe_every_second(window, jumped, 10)
    assert window.silence(NOW + s(60)) == s(10)


def test_clock_that_jumps_back_makes_no_silence():
    window = IngestWindow()
    jumped = observe_every_second(window, NOW, 60) - timedelta(hours=1)
    observe_every_second(window, jumped, 10)
    assert window.silence(LONG_AGO) == s(10)


STEPS = st.lists(st.tuples(st.floats(-30, 30), st.none() | st.floats(-3, 30)), max_size=40)


@given(STEPS, st.floats(0, 600))
def test_silence_is_the_unbroken_time_since_the_last_heartbeat(steps, heard_ago_s):
    """Each step is the time since the previous observation and the age of the watermark (None: no flush)."""
    window, now, unbroken = IngestWindow(), NOW, s(0)
    heard_before = False
    for after_s, flushed_ago_s in steps:
        now += s(after_s)
        heard = flushed_ago_s is not None and s(flushed_ago_s) <= MAX_GAP
        watched = s(0) <= s(after_s) <= MAX_GAP
        unbroken = unbroken + s(after_s) if heard and heard_before and watched else s(0)
        heard_before = heard
        window.observe(now, None if flushed_ago_s is None else now - s(flushed_ago_s))
        deaf_s = max(0.0, flushed_ago_s or 0.0)
        silence = max(s(0), min(unbroken, s(heard_ago_s)) - s(deaf_s))
        assert abs(window.silence(now - s(heard_ago_s)) - silence) < timedelta(milliseconds=1)
