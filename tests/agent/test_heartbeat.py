"""Heartbeats: signed, on time, at once when something changes, and never the end of an agent but once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from agent.config.state_dir import StateDir
from agent.config.status import HealthState, Observation, StatusBoard
from agent.control.api_client import ApiClient
from agent.control.enrolment import ensure_enrolled
from agent.control.heartbeat import Deregistered, HeartbeatSender
from model.entities import Role

LONG_S = 300.0


@pytest.fixture
def beating(http, make_settings):
    """`async with beating(role, board)`: a heart that runs, and the enrolment it runs for."""

    @asynccontextmanager
    async def begin(role: Role, board: StatusBoard):
        settings = make_settings(role)
        folder = StateDir(settings.state)
        with folder.held():
            enrolment = await ensure_enrolled(settings, folder, ApiClient(http, settings.api))
        heart = HeartbeatSender(ApiClient(http, settings.api), enrolment, board)
        task = asyncio.create_task(heart.run())
        yield enrolment, task
        task.cancel()
        with suppress(asyncio.CancelledError, Deregistered):
            await task

    return begin


def a_board(**report) -> StatusBoard:
    board = StatusBoard()
    board.update(**{"envoy": HealthState.UP, "tunnel": HealthState.UP, "reason": "", **report})
    return board


async def test_an_exit_tells_of_its_tunnel_and_its_envoy(plane, beating, until):
    async with beating(Role.EXIT, a_board(tunnel=HealthState.DOWN, reason="interface wg0 is not there")) as (
        enrolment,
        _,
    ):
        said = await until(lambda: plane.beats and plane.beats[0])

    assert plane.paths[-1] == f"/api/v1/exits/{enrolment.id}/heartbeat"
    assert said.pop("version")
    assert said == {"tunnel": "down", "reason": "interface wg0 is not there", "envoy": "up", "leaving": False}


async def test_an_exit_that_is_looked_at_tells_where_it_comes_out(plane, beating, until):
    async with beating(Role.EXIT, a_board(observation=Observation("192.0.2.9", "us"))):
        said = await until(lambda: plane.beats and plane.beats[0])
    assert {name: value for name, value in said["observation"].items() if value} == {
        "address": "192.0.2.9",
        "country": "us",
    }


async def test_a_gateway_has_no_tunnel_to_tell_of(plane, beating, until):
    async with beating(Role.GATEWAY, a_board()) as (enrolment, _):
        said = await until(lambda: plane.beats and plane.beats[0])

    assert plane.paths[-1] == f"/api/v1/proxies/{enrolment.id}/heartbeat"
    assert set(said) == {"envoy", "leaving", "version"}


async def test_the_reply_sets_the_pace(plane, beating, until):
    plane.interval_s = 0.01
    async with beating(Role.EXIT, a_board()):
        await until(lambda: len(plane.beats) >= 5)
        plane.interval_s = LONG_S
        count = await until(lambda: len(plane.beats))
        await until(lambda: len(plane.beats) > count)
        slowed = len(plane.beats)
        with pytest.raises(TimeoutError):
            await until(lambda: len(plane.beats) > slowed + 1, timeout_s=0.3)


async def test_a_change_is_told_at_once(plane, beating, until):
    plane.interval_s = LONG_S
    board = a_board()
    async with beating(Role.EXIT, board):
        await until(lambda: len(plane.beats) == 1)
        board.update(tunnel=HealthState.DOWN, reason="gone")
        await until(lambda: len(plane.beats) == 2)
        board.update(envoy=HealthState.DOWN)
        await until(lambda: len(plane.beats) == 3)

    assert [(beat["tunnel"], beat["envoy"]) for beat in plane.beats] == [("up", "up"), ("down", "up"), ("down", "down")]


async def test_the_first_one_waits_for_envoy_an_interval_long(plane, beating, until):
    plane.interval_s = LONG_S
    board = a_board(envoy=HealthState.DOWN)
    async with beating(Role.EXIT, board):
        board.update(reason="still down")
        board.update(envoy=HealthState.UP)
        await until(lambda: plane.beats)

    assert plane.beats[0]["envoy"] == "up"


async def test_an_envoy_that_does_not_come_up_is_told(plane, beating, until):
    async with beating(Role.EXIT, a_board(envoy=HealthState.DOWN)):
        await until(lambda: plane.beats)

    assert plane.beats[0]["envoy"] == "down"


@pytest.mark.parametrize(
    ("status", "content_type"),
    [
        (503, "application/problem+json"),
        (401, "application/problem+json"),
        (422, "application/problem+json"),
        # of something in between, or of a control plane that was restored from before the enrolment
        (404, "text/html"),
        (410, "text/html"),
        (404, "application/problem+json"),
    ],
)
async def test_a_failure_is_told_once_and_forgotten(plane, beating, until, answer, status, content_type):
    plane.to_beats = answer(status, {"detail": "no", "code": "unknown_exit"}, content_type)
    with capture_logs() as logs:
        async with beating(Role.EXIT, a_board()):
            await until(lambda: len(plane.beats) >= 3)
            plane.to_beats = None
            count = len(plane.beats)
            await until(lambda: len(plane.beats) >= count + 2)

    assert [entry["event"] for entry in logs if entry["event"].startswith("heartbeat.")] == [
        "heartbeat.not_heard",
        "heartbeat.heard_again",
    ]


async def test_an_api_that_is_away_is_waited_for(plane, beating, until):
    async with beating(Role.EXIT, a_board()):
        await until(lambda: plane.beats)
        await plane.stop()
        with capture_logs() as logs:
            await until(lambda: [entry for entry in logs if entry["event"] == "heartbeat.not_heard"])
        count = len(plane.beats)
        await plane.start()
        await until(lambda: len(plane.beats) > count)


async def test_a_proxy_that_is_known_no_more_ends(plane, beating, answer):
    plane.to_beats = answer(410, {"detail": "there is no such exit", "code": "deregistered"})
    async with beating(Role.EXIT, a_board()) as (_, task):
        with pytest.raises(Deregistered, match=r"knows this exit no more .*there is no such exit.*; remove the state"):
            async with asyncio.timeout(60):
                await task


async def test_an_interval_that_is_none_changes_nothing(plane, beating, until):
    for nonsense in (0, -1, 1e9, "1", None):
        plane.interval_s = 0.01
        plane.beats.clear()
        async with beating(Role.EXIT, a_board()):
            await until(lambda: plane.beats)
            plane.interval_s = nonsense
            count = len(plane.beats)
            await until(lambda count=count: len(plane.beats) > count + 2)


def test_a_board_wakes_nobody_for_no_news():
    board = StatusBoard()
    changed = board.changed
    board.update(reason=board.report.reason)
    assert not changed.is_set()

    board.update(reason="news")
    assert changed.is_set()
    assert not board.changed.is_set()


@pytest.mark.parametrize("hours", [1, -1])
async def test_where_the_clocks_differ_the_proof_is_of_the_control_plane_s_time(plane, beating, until, answer, hours):
    """Such a heartbeat is signed again, and the others at once as they should be."""
    plane.ahead = timedelta(hours=hours)
    with capture_logs() as logs:
        async with beating(Role.EXIT, a_board()):
            await until(lambda: len(plane.beats) >= 3)
            plane.ahead = timedelta(0)
            count = len(plane.beats)
            await until(lambda: len(plane.beats) >= count + 2)

    told = [(entry["event"], entry.get("control_plane_ahead_s")) for entry in logs]
    assert [(event, round(ahead_s, -1)) for event, ahead_s in told if event == "clock.differs"] == [
        ("clock.differs", hours * 3600),
        ("clock.differs", 0),
    ]
    assert "heartbeat.not_heard" not in [event for event, _ in told]


async def test_a_refusal_at_the_same_time_is_no_reason_to_sign_again(plane, beating, until, answer):
    plane.to_beats = answer(401, {"detail": "the proof is for another body"})
    with capture_logs() as logs:
        async with beating(Role.EXIT, a_board()):
            await until(lambda: len(plane.beats) >= 2)
    assert "clock.differs" not in [entry["event"] for entry in logs]
