"""Draining, enabling and disabling exits, and what they went through."""

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
async def one(demo):
    return await demo.declare_exit(name="us-1")


async def state_of(demo, exit_):
    shown = (await demo("GET", f"{EXITS}/{exit_['id']}")).json
    return shown["state"], shown["state_reason"], shown["enabled"]


async def test_an_exit_is_drained_and_enabled_again(demo, one):
    reply = await demo("POST", f"{EXITS}/us-1/drain")
    assert (reply.status, reply.json["state"]) == (200, "draining")
    assert reply.headers["etag"] == (await demo("GET", f"{EXITS}/us-1")).headers["etag"]
    assert await state_of(demo, one) == ("draining", "drained by an operator", True)
    reply = await demo("POST", f"{EXITS}/{one['id']}/enable")
    assert (reply.status, reply.json["state"]) == (200, "registering")


async def test_an_exit_is_disabled_as_by_a_patch(demo, one):
    assert (await demo("POST", f"{EXITS}/us-1/disable")).json["state"] == "disabled"
    assert await state_of(demo, one) == ("disabled", "disabled by an operator", False)
    reply = await demo("PATCH", f"{EXITS}/us-1", {"enabled": True})
    assert reply.json["state"] == "registering"


@pytest.mark.parametrize("word", ["drain", "disable"])
async def test_to_do_so_twice_makes_no_revision(demo, one, word):
    first = await demo("POST", f"{EXITS}/us-1/{word}")
    second = await demo("POST", f"{EXITS}/us-1/{word}")
    assert (second.status, second.revision) == (200, first.revision)


async def test_to_enable_what_nobody_took_out_changes_nothing(demo, one):
    before = (await demo("GET", f"{EXITS}/us-1")).json
    reply = await demo("POST", f"{EXITS}/us-1/enable")
    assert (reply.status, reply.json) == (200, before)


async def test_of_a_disabled_exit_nothing_is_left_to_drain(demo, one):
    await demo("POST", f"{EXITS}/us-1/disable")
    reply = await demo("POST", f"{EXITS}/us-1/drain")
    assert (reply.status, reply.json["code"]) == (409, "nothing_to_drain")
    assert reply.json["hint"]


async def test_an_exit_that_drains_stays_enabled_for_whoever_declares_it(demo, one):
    await demo("POST", f"{EXITS}/us-1/drain")
    await demo("PATCH", f"{EXITS}/us-1", {"enabled": True, "port": 9000})
    assert (await state_of(demo, one))[0] == "draining"


async def test_a_dry_run_drains_nothing(demo, one):
    reply = await demo("POST", f"{EXITS}/us-1/drain?dry_run=true")
    assert (reply.status, reply.json["body"]["state"]) == (200, "draining")
    assert (await state_of(demo, one))[0] == "registering"


async def test_the_last_healthy_exit_is_drained_by_approval_only(demo, one, query):
    await query("UPDATE exit SET state = 'healthy' RETURNING id")
    refused = await demo("POST", f"{EXITS}/us-1/drain")
    assert (refused.status, refused.json["code"]) == (409, "would_shrink")
    assert (await demo("POST", f"{EXITS}/us-1/drain?approve=shrink")).status == 200


async def test_a_viewer_operates_nothing(demo, one, make_operator):
    viewer = demo.holding((await make_operator("vera", "viewer")).key)
    for word in ("drain", "enable", "disable"):
        assert (await viewer("POST", f"{EXITS}/us-1/{word}")).status == 403
    assert (await viewer("GET", f"{EXITS}/us-1/history")).status == 200


async def test_what_an_exit_went_through_is_told_with_reasons_and_times(demo, one, clock):
    clock.advance(seconds=60)
    await demo("POST", f"{EXITS}/us-1/drain")
    clock.advance(seconds=60)
    await demo("POST", f"{EXITS}/us-1/disable")
    found = (await demo("GET", f"{EXITS}/us-1/history?hours=1")).json
    assert [(each["state"], each["reason"]) for each in found["states"]] == [
        ("disabled", "disabled by an operator"),
        ("draining", "drained by an operator"),
        ("registering", "declared, not heard of yet"),
    ]
    assert found["states"][0]["until"] is None
    assert found["states"][1]["until"] == found["states"][0]["since"]
    assert found["summary"]["uptime"] == 0
    assert found["before"]["uptime"] is None


@pytest.mark.parametrize("hours", ["0", "-1", "100000", "x", "1e3"])
async def test_a_time_that_is_none_is_refused(demo, one, hours):
    reply = await demo("GET", f"{EXITS}/us-1/history?hours={hours}")
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, "?hours")


# -- what a history says -----------------------------------------------------------------------------------------------


def at(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def summary(*changes: tuple[float, ExitState], start: float = 0, end: float = 100):
    return summarize(list(intervals_of([(at(minutes), state, "") for minutes, state in changes])), at(start), at(end))


def test_stays_have_no_holes_and_the_last_one_lasts():
    assert list(intervals_of([(at(0), HEALTHY, ""), (at(5), UNREACHABLE, "why")])) == [
        StateInterval(HEALTHY, "", at(0), at(5)),
        StateInterval(UNREACHABLE, "why", at(5), None),
    ]


def test_uptime_is_the_time_served_of_that_in_which_it_should_have():
    found = summary((0, HEALTHY), (60, UNREACHABLE), (80, HEALTHY))
    assert found.uptime == 0.8
    assert (found.failures, found.mean_time_between_failures) == (1, timedelta(minutes=80))
    assert found.mean_time_to_recover == timedelta(minutes=20)


def test_what_an_operator_took_out_counts_neither_way():
    found = summary((0, HEALTHY), (50, DISABLED))
    assert (found.uptime, found.failures) == (1.0, 0)
    assert summary((0, HEALTHY), (20, DRAINING), (60, REGISTERING), (80, HEALTHY)).uptime == 40 / 60


def test_a_failure_that_an_operator_ended_was_not_recovered_from():
    found = summary((0, HEALTHY), (10, UNREACHABLE), (20, DISABLED), (90, HEALTHY))
    assert (found.failures, found.recoveries, found.mean_time_to_recover) == (1, 0, None)


def test_only_what_is_within_the_time_counts():
    found = summary((-100, HEALTHY), (-50, UNREACHABLE), (10, HEALTHY), (200, UNREACHABLE))
    assert (found.uptime, found.failures) == (0.9, 0)


def test_of_a_time_before_there_was_an_exit_nothing_is_said():
    found = summary((200, HEALTHY))
    assert (found.uptime, found.mean_time_between_failures, found.mean_time_to_recover) == (None, None, None)
