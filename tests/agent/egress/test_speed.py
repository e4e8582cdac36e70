"""Speed: bounded in bytes and in time, one measurement at once, and never a crash."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from aiohttp import web
from structlog.testing import capture_logs
from yarl import URL

from agent.config.status import HealthState, Observation, StatusBoard
from agent.egress.speed import BYTES_MIN, SpeedTest, SpeedUnknown
from tests.agent.egress.conftest import an_exit

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Target:
    """Gives and takes bytes: as many as wanted, or none any more after some."""

    def __init__(self):
        self.url = URL()
        self.gives = 10**9
        self.stalls_after = 10**9
        self.status = 200
        self.taken = []
        self.given = 0
        self.asked = 0
        self.let_go = asyncio.Event()

    async def get(self, request):
        self.asked += 1
        response = web.StreamResponse(status=self.status)
        await response.prepare(request)
        sent = 0
        while sent < self.gives:
            if sent >= self.stalls_after:
                await self.let_go.wait()
                break
            await response.write(bytes(65_536))
            sent += 65_536
            self.given += 65_536
        return response

    async def post(self, request):
        taken = 0
        async for chunk in request.content.iter_any():
            taken += len(chunk)
        self.taken.append(taken)
        return web.Response(status=self.status)


@pytest.fixture
async def target():
    made = Target()
    app = web.Application(client_max_size=0)
    app.router.add_get("/", made.get)
    app.router.add_post("/", made.post)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = URL(f"http://127.0.0.1:{runner.addresses[0][1]}/")
    yield made
    made.let_go.set()
    await runner.cleanup()


def a_speedometer(target, board=None, **more):
    if board is None:
        board = StatusBoard()
        board.update(tunnel=HealthState.UP, observation=Observation("198.51.100.9", "us"))
    settings = {
        name: more.pop(name) for name in ("speed_every_s", "speed_upload_url", "egress_address") if name in more
    }
    exit_ = an_exit(speed_url=target.url, **settings)
    return SpeedTest(exit_, board, clock=lambda: NOW, **{"bytes_max": 1_000_000, "seconds_max": 60, **more}), board


async def test_both_directions_are_measured_and_told_with_what_was_seen(target):
    speedometer, board = a_speedometer(target)
    speed = await speedometer.measure()
    assert speed.download_mbps > 1
    assert speed.upload_mbps > 1
    told = board.report.observation
    assert (told.address, told.country) == ("198.51.100.9", "us")
    assert (told.download_mbps, told.upload_mbps, told.speed_measured_at) == (
        speed.download_mbps,
        speed.upload_mbps,
        NOW,
    )
    assert 1_000_000 <= target.taken[0] < 1_100_000


async def test_a_download_ends_with_its_time(target):
    target.stalls_after = 131_072
    speedometer, _ = a_speedometer(target, seconds_max=0.3)
    begun_s = time.monotonic()
    speed = await speedometer.measure()
    took_s = time.monotonic() - begun_s
    # by the time that it took, which on a busy machine is longer than its own
    assert 131_072 * 8 / 1e6 / took_s * 0.99 < speed.download_mbps < 131_072 * 8 / 1e6 / 0.3 * 1.01


async def test_who_asks_meanwhile_gets_the_same_result(target):
    speedometer, _ = a_speedometer(target)
    one, other = await asyncio.gather(speedometer.measure(), speedometer.measure())
    assert one is other
    assert target.asked == 1
    await speedometer.measure()
    assert target.asked == 2


async def test_who_leaves_early_does_not_end_it_for_the_others(target):
    speedometer, _ = a_speedometer(target)
    first = asyncio.create_task(speedometer.measure())
    second = asyncio.create_task(speedometer.measure())
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).download_mbps > 0


@pytest.mark.parametrize(
    ("status", "gives", "why"),
    [(403, 10**9, "127.0.0.1 answers 403"), (200, 0, "only 0 bytes were moved"), (302, 0, "answers 302")],
)
async def test_what_cannot_be_measured_says_why(target, status, gives, why):
    target.status, target.gives = status, gives
    speedometer, board = a_speedometer(target)
    with pytest.raises(SpeedUnknown, match=why) as unknown:
        await speedometer.measure()
    assert unknown.value.hint
    assert board.report.observation.download_mbps is None
    assert BYTES_MIN > 0


async def test_a_target_that_is_not_there_and_a_tunnel_that_is_down_are_named(target):
    target.url = URL("http://127.0.0.1:1/")
    with pytest.raises(SpeedUnknown, match="cannot be reached"):
        await a_speedometer(target)[0].measure()
    with pytest.raises(SpeedUnknown, match="the tunnel is down"):
        await a_speedometer(target, StatusBoard())[0].measure()


async def test_on_a_schedule_it_is_measured_while_the_tunnel_is_up(target, until):
    board = StatusBoard()
    board.update(observation=Observation())
    speedometer, _ = a_speedometer(target, board, speed_every_s=0.01)
    with capture_logs() as logs:
        running = asyncio.create_task(speedometer.run())
        board.update(tunnel=HealthState.UP)
        await until(lambda: target.asked > 1)
        target.status = 500
        await until(lambda: any(each["event"] == "speed.unknown" for each in logs))
        target.status = 200
        asked = target.asked
        await until(lambda: target.asked > asked + 1)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert board.report.observation.download_mbps > 0


async def test_without_a_schedule_nothing_is_measured_unasked(target):
    speedometer, _ = a_speedometer(target)
    await speedometer.run()
    assert target.asked == 0
