"""The speed test: bounded in bytes and in time, one at a time, and failures with a reason."""

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
    """A server for downloads and uploads, which can stall after a number of bytes."""

    def __init__(self):
        self.url = URL()
        self.size = 10**9
        self.stalls_after = 10**9
        self.status = 200
        self.uploads = []
        self.sent = 0
        self.requests = 0
        self.resume = asyncio.Event()

    async def get(self, request):
        self.requests += 1
        response = web.StreamResponse(status=self.status)
        await response.prepare(request)
        sent = 0
        while sent < self.size:
            if sent >= self.stalls_after:
                await self.resume.wait()
                break
            await response.write(bytes(65_536))
            sent += 65_536
            self.sent += 65_536
        return response

    async def post(self, request):
        received = 0
        async for chunk in request.content.iter_any():
            received += len(chunk)
        self.uploads.append(received)
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
    made.resume.set()
    await runner.cleanup()


def a_speed_test(target, board=None, **more):
    if board is None:
        board = StatusBoard()
        board.update(tunnel=HealthState.UP, observation=Observation("198.51.100.9", "us"))
    settings = {
        name: more.pop(name) for name in ("speed_every_s", "speed_upload_url", "egress_address") if name in more
    }
    exit_ = an_exit(speed_url=target.url, **settings)
    return SpeedTest(exit_, board, clock=lambda: NOW, **{"bytes_max": 1_000_000, "seconds_max": 60, **more}), board


async def test_speed_test_adds_both_directions_to_observation(target):
    speed_test, board = a_speed_test(target)
    speed = await speed_test.measure()
    assert speed.download_mbps > 1
    assert speed.upload_mbps > 1
    observation = board.report.observation
    assert (observation.address, observation.country) == ("198.51.100.9", "us")
    assert (observation.download_mbps, observation.upload_mbps, observation.speed_measured_at) == (
        speed.download_mbps,
        speed.upload_mbps,
        NOW,
    )
    assert 1_000_000 <= target.uploads[0] < 1_100_000


async def test_download_ends_at_time_limit(target):
    target.stalls_after = 131_072
    speed_test, _ = a_speed_test(target, seconds_max=0.3)
    begun_s = time.monotonic()
    speed = await speed_test.measure()
    took_s = time.monotonic() - begun_s
    # on a busy machine the test takes longer than its limit
    assert 131_072 * 8 / 1e6 / took_s * 0.99 < speed.download_mbps < 131_072 * 8 / 1e6 / 0.3 * 1.01


async def test_concurrent_callers_share_one_speed_test(target):
    speed_test, _ = a_speed_test(target)
    one, other = await asyncio.gather(speed_test.measure(), speed_test.measure())
    assert one is other
    assert target.requests == 1
    await speed_test.measure()
    assert target.requests == 2


async def test_cancelled_caller_does_not_end_shared_speed_test(target):
    speed_test, _ = a_speed_test(target)
    first = asyncio.create_task(speed_test.measure())
    second = asyncio.create_task(speed_test.measure())
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).download_mbps > 0


@pytest.mark.parametrize(
    ("status", "size", "why"),
    [(403, 10**9, "127.0.0.1 answers 403"), (200, 0, "only 0 bytes were transferred"), (302, 0, "answers 302")],
)
async def test_failed_speed_test_has_reason(target, status, size, why):
    target.status, target.size = status, size
    speed_test, board = a_speed_test(target)
    with pytest.raises(SpeedUnknown, match=why) as unknown:
        await speed_test.measure()
    assert unknown.value.hint
    assert board.report.observation.download_mbps is None
    assert BYTES_MIN > 0


async def test_unreachable_target_and_down_tunnel_are_reported(target):
    target.url = URL("http://127.0.0.1:1/")
    with pytest.raises(SpeedUnknown, match="cannot be reached"):
        await a_speed_test(target)[0].measure()
    with pytest.raises(SpeedUnknown, match="the tunnel is down"):
        await a_speed_test(target, StatusBoard())[0].measure()


async def test_scheduled_speed_test_runs_while_tunnel_is_up(target, until):
    board = StatusBoard()
    board.update(observation=Observation())
    speed_test, _ = a_speed_test(target, board, speed_every_s=0.01)
    with capture_logs() as logs:
        running = asyncio.create_task(speed_test.run())
        board.update(tunnel=HealthState.UP)
        await until(lambda: target.requests > 1)
        target.status = 500
        await until(lambda: any(each["event"] == "speed.unknown" for each in logs))
        target.status = 200
        requests = target.requests
        await until(lambda: target.requests > requests + 1)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert board.report.observation.download_mbps > 0


async def test_speed_test_without_schedule_does_not_run(target):
    speed_test, _ = a_speed_test(target)
    await speed_test.run()
    assert target.requests == 0
