"""Speed measurements through a real tunnel."""

from __future__ import annotations

import json
import socket

import pytest
from aiohttp import web

from tests.agent.conftest import Answer
from tests.tunnels import lab

pytestmark = [pytest.mark.tunnels, pytest.mark.timeout(600), pytest.mark.slow]
GIVEN_BYTES = 1_000_000
"""Few enough that a busy machine transfers them within the agent's 5 s."""
PORT = 8081


class SpeedTarget:
    """A target for downloads and uploads that records its clients."""

    def __init__(self) -> None:
        self.callers: set[str] = set()
        self.taken_bytes = 0
        self.given_bytes = 0

    async def give(self, request):
        self.callers.add(request.remote)
        response = web.StreamResponse()
        await response.prepare(request)
        while self.given_bytes < GIVEN_BYTES:
            await response.write(bytes(65_536))
            self.given_bytes += 65_536
        return response

    async def take(self, request):
        self.callers.add(request.remote)
        async for chunk in request.content.iter_any():
            self.taken_bytes += len(chunk)
        return web.Response()


@pytest.fixture
async def target(network):
    made = SpeedTarget()
    app = web.Application()
    app.router.add_get("/", made.give)
    app.router.add_post("/", made.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    with lab.inside(lab.NET):
        listening = socket.create_server((lab.PAGE, PORT))
    await web.SockSite(runner, listening).start()
    yield made
    await runner.cleanup()


def moved_bytes(interface: str) -> tuple[int, int]:
    """Return the bytes that an interface of the exit has received and sent."""
    listing = lab.ip("-j", "-s", "link", "show", interface, namespace=lab.EXIT)
    (link,) = json.loads(listing)
    return link["stats64"]["rx"]["bytes"], link["stats64"]["tx"]["bytes"]


async def test_speed_order_measures_tunnel_in_both_directions(wireguard, internet, plane, target, start_agent, until):
    speed = ("--speed-url", f"http://{lab.PAGE}:{PORT}/", "--observe", f"http://{lab.PAGE}/json")
    start_agent([wireguard.file()], *speed)
    await until(lambda: plane.said(tunnel="up"))
    received, sent = moved_bytes(lab.TUNNEL)
    order = {"id": "1", "kind": "speed-test", "detail": {}}
    plane.to_beats = Answer(202, {"state": "healthy", "interval_s": plane.interval_s, "orders": [order]})
    await until(plane.order_results)

    result = plane.order_results()["1"]
    assert result["error"] == ""
    assert 1 < result["outcome"]["download_mbps"] < 100_000
    assert 1 < result["outcome"]["upload_mbps"] < 100_000
    assert target.callers == {wireguard.address}
    now_received, now_sent = moved_bytes(lab.TUNNEL)
    assert now_received - received >= target.given_bytes >= GIVEN_BYTES
    assert now_sent - sent >= target.taken_bytes > 1_000_000
