"""Access to a control plane at a public address: for the agent and its Envoy, and for no client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from datetime import UTC, datetime

import pytest

from agent.net.packet_marks import BYPASS_MARK
from model.authority import create_authority
from model.endpoint import Endpoint
from tests.tunnels import lab, proxy
from tests.tunnels.conftest import PlaneOutside

pytestmark = [pytest.mark.tunnels, pytest.mark.timeout(600), pytest.mark.envoy]


@pytest.fixture
async def plane(network):
    """Start the control plane at an address that an exit's Envoy may connect to."""
    standing_in = PlaneOutside(create_authority(datetime.now(UTC)), xds_port=18000, host=lab.PAGE)
    await standing_in.start()
    yield standing_in
    await standing_in.stop()


class Collector:
    """A listener that counts connections."""

    def __init__(self) -> None:
        self.callers = 0
        self.called = asyncio.Event()

    async def take(self, _, writer):
        self.callers += 1
        self.called.set()
        writer.close()


@pytest.fixture
async def collector(network):
    made = Collector()
    with lab.inside(lab.NET):
        listening = socket.create_server((lab.PAGE, 0))
    listening.setblocking(False)
    server = await asyncio.start_server(made.take, sock=listening)
    made.place = Endpoint(lab.PAGE, listening.getsockname()[1])
    yield made
    server.close()


async def connects(port: int) -> bool:
    """Return True if a process of the exit's namespace reaches the control plane without the mark."""
    with lab.inside(lab.EXIT):
        asking = socket.socket()
    asking.setblocking(False)
    with contextlib.closing(asking):
        try:
            async with asyncio.timeout(1):
                await asyncio.get_running_loop().sock_connect(asking, (lab.PAGE, port))
        except TimeoutError:
            return False
    return True


@pytest.mark.slow
async def test_kill_switch_lets_agent_reach_control_plane_but_not_clients(
    wireguard, internet, plane, source, collector, start_agent, until, tmp_path
):
    start_agent([wireguard.file()], "--otlp", str(collector.place))
    await until(lambda: plane.said(tunnel="up", envoy="up"))
    assert source.streams
    folder = tmp_path / "client"
    folder.mkdir()
    with proxy.running(folder, otlp=collector.place):
        await until(proxy.listens)
        before = len(plane.beats)
        assert await proxy.ask(f"[{lab.PAGE_6}]") == "HTTP/1.1 200 OK"
        ports = (plane.port, plane.xds_port, collector.place.port)
        assert not any(await asyncio.gather(*map(connects, ports)))
        assert (
            await proxy.ask(f"{lab.PAGE}:{plane.port}", "/api/v1/exits/register") == "HTTP/1.1 503 Service Unavailable"
        )
        assert await proxy.ask("collector", proxy.COLLECTOR) == "HTTP/1.1 503 Service Unavailable"
        assert collector.callers == 0
    await until(lambda: len(plane.beats) > before + 3)


def options_of(cluster) -> list[dict]:
    return cluster.get("upstream_bind_config", {}).get("socket_options", [])


@pytest.mark.slow
async def test_kill_switch_lets_envoy_traces_pass(
    wireguard, internet, plane, source, collector, start_agent, until, tmp_path
):
    start_agent([wireguard.file()], "--otlp", str(collector.place))
    await until(lambda: plane.said(tunnel="up", envoy="up"))
    clusters = json.loads((tmp_path / "agent" / "bootstrap.json").read_text())["static_resources"]["clusters"]
    marked = {each["name"] for each in clusters for option in options_of(each) if option["name"] == socket.SO_MARK}
    assert marked == {"xds", "otel-collector"}
    folder = tmp_path / "client"
    folder.mkdir()
    with proxy.running(folder, otlp=collector.place, mark=BYPASS_MARK):
        await until(proxy.listens)
        await proxy.ask("collector", proxy.COLLECTOR)
        assert collector.callers


@pytest.mark.slow
async def test_agent_reconnects_to_control_plane_through_kill_switch(
    wireguard, internet, plane, source, start_agent, until, tmp_path
):
    start_agent([wireguard.file()])
    await until(lambda: plane.said(tunnel="up", envoy="up"))
    before = len(source.streams)
    await source.stop()
    await until(lambda: "ads.away" in (tmp_path / "agent.log").read_text())
    await source.start()
    await until(lambda: len(source.streams) > before)
