"""Heartbeats: signed, periodic, sent at once on changes, and fatal only after deregistration."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from agent.config.state_dir import StateDir
from agent.config.status import HealthState, Observation, StatusBoard
from agent.control.api_client import ApiClient
from agent.control.enrolment import ensure_enrolled
from agent.control.heartbeat import HeartbeatSender
from agent.control.signed_client import Deregistered, Replaced, SignedClient
from model.endpoint import Endpoint
from model.entities import Role

LONG_S = 300.0
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def sending(http, make_settings):
    """`async with sending(role, board)`: run a sender; yield its enrolment and its task."""

    @asynccontextmanager
    async def begin(role: Role, board: StatusBoard, **more):
        settings = make_settings(role)
        folder = StateDir(settings.state)
        with folder.locked():
            enrolment = await ensure_enrolled(settings, folder, ApiClient(http, settings.api))
        sender = HeartbeatSender(SignedClient(ApiClient(http, settings.api), enrolment), board, **more)
        task = asyncio.create_task(sender.run())
        yield enrolment, task
        task.cancel()
        with suppress(asyncio.CancelledError, Deregistered):
            await task

    return begin


def a_board(**report) -> StatusBoard:
    board = StatusBoard()
    board.update(**{"envoy": HealthState.UP, "tunnel": HealthState.UP, "reason": "", **report})
    return board


async def test_heartbeat_has_the_address_of_metrics(plane, sending, until):
    async with sending(Role.GATEWAY, a_board(), metrics=Endpoint("2001:db8::1", 9902)):
        body = await until(lambda: plane.beats and plane.beats[0])
    assert body["metrics_address"] == "[2001:db8::1]:9902"


@pytest.mark.parametrize(
    ("role", "listens", "advertised"),
    [
        (Role.GATEWAY, None, None),
        (Role.GATEWAY, "192.0.2.1", "192.0.2.1:9902"),
        (Role.GATEWAY, "0.0.0.0", None),
        (Role.EXIT, "::", "192.0.2.3:9902"),
    ],
)
def test_advertised_address_of_metrics_is_one_that_others_reach(make_settings, role, listens, advertised):
    settings = make_settings(role, metrics=listens and Endpoint(listens, 9902))
    found = settings.advertised_metrics
    assert (found and str(found)) == advertised


async def test_exit_heartbeat_has_tunnel_and_envoy(plane, sending, until):
    async with sending(Role.EXIT, a_board(tunnel=HealthState.DOWN, reason="interface wg0 is not there")) as (
        enrolment,
        _,
    ):
        body = await until(lambda: plane.beats and plane.beats[0])

    assert plane.paths[-1] == f"/api/v1/exits/{enrolment.id}/heartbeat"
    assert body.pop("version")
    assert body == {"tunnel": "down", "reason": "interface wg0 is not there", "envoy": "up", "stopping": False}


async def test_exit_heartbeat_has_observation(plane, sending, until):
    async with sending(Role.EXIT, a_board(observation=Observation("192.0.2.9", "us"))):
        body = await until(lambda: plane.beats and plane.beats[0])
    assert {name: value for name, value in body["observation"].items() if value} == {
        "address": "192.0.2.9",
        "country": "us",
    }


async def test_gateway_heartbeat_has_no_tunnel(plane, sending, until):
    async with sending(Role.GATEWAY, a_board()) as (enrolment, _):
        body = await until(lambda: plane.beats and plane.beats[0])

    assert plane.paths[-1] == f"/api/v1/proxies/{enrolment.id}/heartbeat"
    assert set(body) == {"envoy", "stopping", "version"}


async def test_reply_sets_interval(plane, sending, until):
    plane.interval_s = 0.01
    async with sending(Role.EXIT, a_board()):
        await until(lambda: len(plane.beats) >= 5)
        plane.interval_s = LONG_S
        count = await until(lambda: len(plane.beats))
        await until(lambda: len(plane.beats) > count)
        slowed = len(plane.beats)
        with pytest.raises(TimeoutError):
            await until(lambda: len(plane.beats) > slowed + 1, timeout_s=0.3)


async def test_status_change_sends_heartbeat_at_once(plane, sending, until):
    plane.interval_s = LONG_S
    board = a_board()
    async with sending(Role.EXIT, board):
        await until(lambda: len(plane.beats) == 1)
        board.update(tunnel=HealthState.DOWN, reason="gone")
        await until(lambda: len(plane.beats) == 2)
        board.update(envoy=HealthState.DOWN)
        await until(lambda: len(plane.beats) == 3)

    assert [(beat["tunnel"], beat["envoy"]) for beat in plane.beats] == [("up", "up"), ("down", "up"), ("down", "down")]


async def test_first_heartbeat_waits_for_envoy(plane, sending, until):
    plane.interval_s = LONG_S
    board = a_board(envoy=HealthState.DOWN)
    async with sending(Role.EXIT, board):
        board.update(reason="still down")
        board.update(envoy=HealthState.UP)
        await until(lambda: plane.beats)

    assert plane.beats[0]["envoy"] == "up"


async def test_first_heartbeat_is_sent_without_envoy_after_interval(plane, sending, until):
    async with sending(Role.EXIT, a_board(envoy=HealthState.DOWN)):
        await until(lambda: plane.beats)

    assert plane.beats[0]["envoy"] == "down"


@pytest.mark.parametrize(
    ("status", "content_type"),
    [
        (503, "application/problem+json"),
        (401, "application/problem+json"),
        (422, "application/problem+json"),
        # from a middlebox, or from a control plane that was restored from an older backup
        (404, "text/html"),
        (410, "text/html"),
        (404, "application/problem+json"),
    ],
)
async def test_repeated_failure_is_logged_once(plane, sending, until, answer, status, content_type):
    plane.to_beats = answer(status, {"detail": "no", "code": "unknown_exit"}, content_type)
    with capture_logs() as logs:
        async with sending(Role.EXIT, a_board()):
            await until(lambda: len(plane.beats) >= 3)
            plane.to_beats = None
            count = len(plane.beats)
            await until(lambda: len(plane.beats) >= count + 2)

    assert [entry["event"] for entry in logs if entry["event"].startswith("heartbeat.")] == [
        "heartbeat.failed",
        "heartbeat.recovered",
    ]


async def test_heartbeats_resume_when_api_is_back(plane, sending, until):
    async with sending(Role.EXIT, a_board()):
        await until(lambda: plane.beats)
        await plane.stop()
        with capture_logs() as logs:
            await until(lambda: [entry for entry in logs if entry["event"] == "heartbeat.failed"])
        count = len(plane.beats)
        await plane.start()
        await until(lambda: len(plane.beats) > count)


async def test_removed_proxy_raises_deregistered(plane, sending, answer):
    plane.to_beats = answer(410, {"detail": "there is no such exit", "code": "deregistered"})
    async with sending(Role.EXIT, a_board()) as (_, task):
        with pytest.raises(Deregistered, match=r"removed this exit .*there is no such exit.*; remove the state"):
            async with asyncio.timeout(60):
                await task


async def test_replaced_proxy_says_so_and_raises_replaced(plane, sending, answer):
    plane.to_beats = answer(410, {"detail": "another registration took over the name", "code": "replaced"})
    with capture_logs() as logs:
        async with sending(Role.EXIT, a_board()) as (_, task):
            with pytest.raises(Replaced, match=r"replaced by another registration .*--takes-over"):
                async with asyncio.timeout(60):
                    await task
    assert [entry["log_level"] for entry in logs if entry["event"] == "agent.replaced"] == ["error"]


async def test_invalid_interval_is_ignored(plane, sending, until):
    for interval_s in (0, -1, 1e9, "1", None):
        plane.interval_s = 0.01
        plane.beats.clear()
        async with sending(Role.EXIT, a_board()):
            await until(lambda: plane.beats)
            plane.interval_s = interval_s
            count = len(plane.beats)
            await until(lambda count=count: len(plane.beats) > count + 2)


def test_equal_status_sets_no_change_event():
    board = StatusBoard()
    changed = board.changed
    board.update(reason=board.report.reason)
    assert not changed.is_set()

    board.update(reason="news")
    assert changed.is_set()
    assert not board.changed.is_set()


@pytest.mark.parametrize("hours", [1, -1])
async def test_refused_signature_adopts_control_plane_clock(plane, sending, until, answer, hours):
    """The refused heartbeat is signed again, and the following ones use the adopted clock."""
    plane.ahead = timedelta(hours=hours)
    with capture_logs() as logs:
        async with sending(Role.EXIT, a_board()):
            await until(lambda: len(plane.beats) >= 3)
            plane.ahead = timedelta(0)
            count = len(plane.beats)
            await until(lambda: len(plane.beats) >= count + 2)

    events = [(entry["event"], entry.get("control_plane_ahead_s")) for entry in logs]
    assert [(event, round(ahead_s, -1)) for event, ahead_s in events if event == "clock.differs"] == [
        ("clock.differs", hours * 3600),
        ("clock.differs", 0),
    ]
    assert "heartbeat.failed" not in [event for event, _ in events]


@pytest.mark.parametrize("hours", [24, -24])
async def test_heartbeats_resume_when_clock_is_a_day_off(plane, sending, until, hours):
    """The clock is adopted first, then the newest time that was known before."""
    plane.ahead = timedelta(hours=hours)
    plane.newest = datetime.now(UTC) + plane.ahead + timedelta(minutes=4)
    with capture_logs() as logs:
        async with sending(Role.EXIT, a_board()):
            await until(lambda: len(plane.beats) >= 2)
    assert plane.signed[:2] == sorted({*plane.signed[:2]})
    assert "heartbeat.failed" not in [entry["event"] for entry in logs]


async def test_signatures_are_newer_when_clock_is_set_back(plane, sending, until, monkeypatch):
    """The host's clock stands still, and then goes back by a minute."""
    times = iter([NOON, NOON, NOON - timedelta(minutes=1)])
    plane.ahead = NOON - datetime.now(UTC)
    monkeypatch.setattr(SignedClient, "now", lambda _: next(times, NOON))
    async with sending(Role.EXIT, a_board()):
        await until(lambda: len(plane.signed) >= 3)
    assert plane.signed[:3] == [NOON + timedelta(microseconds=each) for each in range(3)]


@pytest.mark.parametrize(
    "value", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "soon", None, 7]
)
async def test_absurd_newest_time_is_not_adopted(plane, sending, until, answer, value):
    plane.to_beats = answer(401, {"detail": "no", "code": "stale_signature", "errors": [{"value": value}]})
    async with sending(Role.EXIT, a_board()):
        await until(lambda: len(plane.beats) >= 2)
        plane.to_beats = None
        count = len(plane.beats)
        await until(lambda: len(plane.beats) > count)


async def test_refusal_with_equal_clock_is_not_retried(plane, sending, until, answer):
    plane.to_beats = answer(401, {"detail": "the proof is for another body"})
    with capture_logs() as logs:
        async with sending(Role.EXIT, a_board()):
            await until(lambda: len(plane.beats) >= 2)
    assert "clock.differs" not in [entry["event"] for entry in logs]
