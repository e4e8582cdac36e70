"""Drain, enable, disable and history of exits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from model.exit_states import ExitState
from model.state_history import StateInterval, intervals_of, summarize

EXITS = "/api/v1/exits"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HEALTHY, UNREACHABLE, DRAINING, DISABLED, REGISTERING = (
    ExitState.HEALTHY,
    ExitState.UNREACHABLE,
    ExitState.DRAINING,
    ExitState.DISABLED,
    ExitState.REGISTERING,
)


@pytest.fixture
async def us_1(demo):
    return await demo.declare_exit(name="us-1")


async def state_of(demo, exit_):
    shown = (await demo("GET", f"{EXITS}/{exit_['id']}")).json
    return shown["state"], shown["state_reason"], shown["enabled"]


async def test_exit_is_drained_and_enabled_again(demo, us_1):
    reply = await demo("POST", f"{EXITS}/us-1/drain")
    assert (reply.status, reply.json["state"]) == (200, "draining")
    assert reply.headers["etag"] == (await demo("GET", f"{EXITS}/us-1")).headers["etag"]
    assert await state_of(demo, us_1) == ("draining", "drained by an operator", True)
    reply = await demo("POST", f"{EXITS}/{us_1['id']}/enable")
    assert (reply.status, reply.json["state"]) == (200, "registering")


async def test_disable_equals_patch_of_enabled(demo, us_1):
    assert (await demo("POST", f"{EXITS}/us-1/disable")).json["state"] == "disabled"
    assert await state_of(demo, us_1) == ("disabled", "disabled by an operator", False)
    reply = await demo("PATCH", f"{EXITS}/us-1", {"enabled": True})
    assert reply.json["state"] == "registering"


@pytest.mark.parametrize("word", ["drain", "disable"])
async def test_repeated_operation_makes_no_revision(demo, us_1, word):
    first = await demo("POST", f"{EXITS}/us-1/{word}")
    second = await demo("POST", f"{EXITS}/us-1/{word}")
    assert (second.status, second.revision) == (200, first.revision)


async def test_enabling_enabled_exit_changes_nothing(demo, us_1):
    before = (await demo("GET", f"{EXITS}/us-1")).json
    reply = await demo("POST", f"{EXITS}/us-1/enable")
    assert (reply.status, reply.json) == (200, before)


async def test_disabled_exit_cannot_be_drained(demo, us_1):
    await demo("POST", f"{EXITS}/us-1/disable")
    reply = await demo("POST", f"{EXITS}/us-1/drain")
    assert (reply.status, reply.json["code"]) == (409, "nothing_to_drain")
    assert reply.json["hint"]


async def test_patch_of_enabled_keeps_exit_draining(demo, us_1):
    await demo("POST", f"{EXITS}/us-1/drain")
    await demo("PATCH", f"{EXITS}/us-1", {"enabled": True, "port": 9000})
    assert (await state_of(demo, us_1))[0] == "draining"


async def test_dry_run_drains_nothing(demo, us_1):
    reply = await demo("POST", f"{EXITS}/us-1/drain?dry_run=true")
    assert (reply.status, reply.json["body"]["state"]) == (200, "draining")
    assert (await state_of(demo, us_1))[0] == "registering"


async def test_draining_last_healthy_exit_needs_approval(demo, us_1, query):
    await query("UPDATE exit SET state = 'healthy' RETURNING id")
    refused = await demo("POST", f"{EXITS}/us-1/drain")
    assert (refused.status, refused.json["code"]) == (409, "would_shrink")
    assert (await demo("POST", f"{EXITS}/us-1/drain?approve=shrink")).status == 200


async def test_viewer_cannot_operate_exits(demo, us_1, make_operator):
    viewer = demo.holding((await make_operator("vera", "viewer")).key)
    for word in ("drain", "enable", "disable"):
        assert (await viewer("POST", f"{EXITS}/us-1/{word}")).status == 403
    assert (await viewer("GET", f"{EXITS}/us-1/history")).status == 200


async def test_history_lists_states_with_reasons_and_times(demo, us_1, clock):
    clock.advance(seconds=60)
    await demo("POST", f"{EXITS}/us-1/drain")
    clock.advance(seconds=60)
    await demo("POST", f"{EXITS}/us-1/disable")
    found = (await demo("GET", f"{EXITS}/us-1/history?hours=1")).json
    assert [(each["state"], each["reason"]) for each in found["states"]] == [
        ("disabled", "disabled by an operator"),
        ("draining", "drained by an operator"),
        ("registering", "declared, no heartbeat yet"),
    ]
    assert found["states"][0]["until"] is None
    assert found["states"][1]["until"] == found["states"][0]["since"]
    assert found["summary"]["uptime"] == 0
    assert found["before"]["uptime"] is None


@pytest.mark.parametrize("hours", ["0", "-1", "100000", "x", "1e3"])
async def test_bad_history_hours_are_refused(demo, us_1, hours):
    reply = await demo("GET", f"{EXITS}/us-1/history?hours={hours}")
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, "?hours")


# -- history summary --------------------------------------------------------------------------------------------------


def at(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def summary(*changes: tuple[float, ExitState], start: float = 0, end: float = 100):
    return summarize(list(intervals_of([(at(minutes), state, "") for minutes, state in changes])), at(start), at(end))


def test_state_intervals_are_contiguous_and_last_is_open():
    assert list(intervals_of([(at(0), HEALTHY, ""), (at(5), UNREACHABLE, "why")])) == [
        StateInterval(HEALTHY, "", at(0), at(5)),
        StateInterval(UNREACHABLE, "why", at(5), None),
    ]


def test_uptime_is_serving_time_over_due_time():
    found = summary((0, HEALTHY), (60, UNREACHABLE), (80, HEALTHY))
    assert found.uptime == 0.8
    assert (found.failures, found.mean_time_between_failures) == (1, timedelta(minutes=80))
    assert found.mean_time_to_recover == timedelta(minutes=20)


def test_time_taken_out_by_operator_is_not_counted():
    found = summary((0, HEALTHY), (50, DISABLED))
    assert (found.uptime, found.failures) == (1.0, 0)
    assert summary((0, HEALTHY), (20, DRAINING), (60, REGISTERING), (80, HEALTHY)).uptime == 40 / 60


def test_failure_ended_by_operator_is_not_a_recovery():
    found = summary((0, HEALTHY), (10, UNREACHABLE), (20, DISABLED), (90, HEALTHY))
    assert (found.failures, found.recoveries, found.mean_time_to_recover) == (1, 0, None)


def test_summary_counts_only_the_window():
    found = summary((-100, HEALTHY), (-50, UNREACHABLE), (10, HEALTHY), (200, UNREACHABLE))
    assert (found.uptime, found.failures) == (0.9, 0)


def test_summary_before_creation_of_exit_is_empty():
    found = summary((200, HEALTHY))
    assert (found.uptime, found.mean_time_between_failures, found.mean_time_to_recover) == (None, None, None)
