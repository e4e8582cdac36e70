"""The SQL and the Python form of the rules agree, so the keeper reads exactly the exits that move."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, update

from keeper import keeper as module
from keeper.exit_health import HealthThresholds, judge
from keeper.ingest_window import IngestWindow
from model.entities import Resilience, Role
from model.exit_states import ExitState
from model.repositories import exit_reports, heartbeats
from model.repositories.exit_reports import ExitReport
from model.repositories.heartbeats import Heartbeat
from model.tables import ExitRow, HeartbeatRow, PoolRow, ProxyRow
from tests.scale import scaled

pytestmark = pytest.mark.postgres

RESILIENCE = Resilience(degraded_above_ms=100)
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
THRESHOLDS = HealthThresholds(unreachable_after=timedelta(seconds=30), lost_after=timedelta(seconds=300))
LIMITS = (timedelta(0), THRESHOLDS.unreachable_after, THRESHOLDS.lost_after)
TICK = timedelta(microseconds=1)


AGOS = st.sampled_from([limit + by for limit in LIMITS for by in (-TICK, timedelta(0), TICK)]) | st.timedeltas(
    -timedelta(seconds=60), timedelta(seconds=600)
)
TIMES = AGOS.map(lambda ago: NOW - ago)
OBSERVATIONS = st.none() | st.fixed_dictionaries(
    {
        "country": st.sampled_from(["us", "us", "fr", None]),
        "leak": st.sampled_from(["", "", "it leaks"]),
        "error": st.just(""),
        "conflict": st.sampled_from(["", "", "one sees fr"]),
        "rtt_ms": st.none() | st.sampled_from([79.5, 80, 80.5, 100, 100.5]),
    }
)
BEATS = st.builds(
    Heartbeat,
    st.just(UUID(int=0)),
    TIMES,
    st.just(NOW),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.just(""),
    st.just("1"),
    OBSERVATIONS,
    st.sampled_from([0, 7, 8, 9, 10, 11]),
)


@st.composite
def reports(draw):
    """Draw a report of any exit. Its state is often as old as its heartbeat, to the microsecond."""
    heard = draw(st.none() | BEATS)
    since = draw(
        TIMES if heard is None else TIMES | st.sampled_from([-TICK, 0 * TICK, TICK]).map(heard.heard_at.__add__)
    )
    return ExitReport(
        UUID(int=0), draw(st.sampled_from(ExitState)), since, heard, "us", RESILIENCE, draw(st.none() | st.just(10))
    )


def numbered(drawn: list[ExitReport]) -> list[ExitReport]:
    """Give the reports distinct exit ids."""
    return [
        replace(each, exit_id=id_, heartbeat=each.heartbeat and replace(each.heartbeat, proxy_id=id_))
        for id_, each in ((UUID(int=number), each) for number, each in enumerate(drawn, 1))
    ]


async def keep(session, harness, reports):
    """Replace all exits in the database by these."""
    for table in (HeartbeatRow, ExitRow, ProxyRow):
        await session.execute(delete(table))
    pool = harness.pool
    stored = {"degraded_above_ms": RESILIENCE.degraded_above_ms}
    allow = all(each.allow_unverified for each in reports)
    await session.execute(update(PoolRow).values(resilience=stored, allow_unverified=allow))
    proxies, exits = [], []
    for each in reports:
        named = {"id": each.exit_id, "name": str(each.exit_id), "created_at": NOW}
        proxies.append({"fleet_id": pool.fleet_id, "role": Role.EXIT, **named})
        exits.append(
            {
                "pool_id": pool.id,
                "address": "192.0.2.1",
                "port": 1,
                "capacity": each.capacity,
                "bind_address": "0.0.0.0",
                "state": each.state,
                "state_reason": "",
                "state_since": each.state_since,
                **named,
            }
        )
    await session.execute(insert(ProxyRow), proxies)
    await session.execute(insert(ExitRow), exits)
    await heartbeats.store(session, [each.heartbeat for each in reports if each.heartbeat])


@settings(
    max_examples=scaled(25), deadline=None, print_blob=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(reports(), min_size=10, max_size=30).map(numbered), st.none() | TIMES, st.booleans())
async def test_exit_is_read_if_and_only_if_it_moves(harness, drawn, window_since, allow_unverified):
    """If: otherwise an exit would keep a wrong state. Only if: otherwise each run would read all exits."""
    drawn = [replace(each, allow_unverified=allow_unverified) for each in drawn]
    window = IngestWindow()
    window.since, window.until = window_since, NOW
    async with harness.database.session() as session:
        await keep(session, harness, drawn)
        read = await exit_reports.find_moving(
            session,
            window.silence_cutoff(THRESHOLDS.unreachable_after),
            window.silence_cutoff(THRESHOLDS.lost_after),
        )
    assert {each.exit_id: each for each in read} == {
        each.exit_id: each for each in drawn if judge(each, window, THRESHOLDS)
    }


@given(AGOS, AGOS, st.none() | TIMES)
def test_silence_cutoff_equals_silence_beyond_the_limit(ago, limit, since):
    window = IngestWindow()
    window.since, window.until = since, NOW
    before = window.silence_cutoff(abs(limit))
    heard_at = NOW - ago
    assert (before is not None and heard_at < before) is (window.silence(heard_at) > abs(limit))


# -- cost --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def judged(monkeypatch) -> list[UUID]:
    """Record the ids of the exits that the keeper judges."""
    seen: list[UUID] = []

    def count(standing, *given):
        seen.append(standing.exit_id)
        return judge(standing, *given)

    monkeypatch.setattr(module, "judge", count)
    return seen


STATES = (ExitState.HEALTHY, ExitState.UNREACHABLE, ExitState.LOST, ExitState.DISABLED, ExitState.REGISTERING)


@pytest.mark.parametrize("of_each", [1, 8])
async def test_exits_that_do_not_move_are_not_judged(harness, clock, judged, of_each):
    """Healthy exits report good, unreachable ones bad, disabled ones anything; lost ones are silent."""
    exits = {
        state: [await harness.declare(f"{state}-{number}", state) for number in range(of_each)] for state in STATES
    }
    heard = {state: exits[state] for state in STATES if state is not ExitState.REGISTERING}
    for _ in range(12):
        async with harness.database.session() as session:
            beats = [beat(one, clock(), state is not ExitState.UNREACHABLE) for state in heard for one in heard[state]]
            await heartbeats.store(session, beats)
        heard.pop(ExitState.LOST, None)
        await harness.pass_time(4)
    assert judged == []
    await harness.send_heartbeat(exits[ExitState.HEALTHY][0], stopping=True)
    await harness.run_keeper()
    assert judged == [exits[ExitState.HEALTHY][0]]


def beat(exit_id, at, tunnel_up) -> Heartbeat:
    return Heartbeat(exit_id, at, at, tunnel_up, envoy_up=True, stopping=False, reason="", version="1")


@pytest.mark.parametrize("others", [1, 8])
async def test_silent_exit_is_judged_only_for_unreachable_and_lost(harness, clock, judged, others):
    silent = await harness.declare("silent", ExitState.HEALTHY)
    talking = [await harness.declare(f"exit-{number}", ExitState.HEALTHY) for number in range(others)]
    await harness.send_heartbeat(silent)
    for _ in range(14):
        async with harness.database.session() as session:
            await heartbeats.store(session, [beat(exit_id, clock(), True) for exit_id in talking])
        await harness.pass_time(24)
    assert judged == [silent, silent]
    assert await harness.state(silent) is ExitState.LOST
