"""An exit's agent as a whole, which brings its tunnel up itself."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from yarl import URL

from agent.folder import StateFolder
from agent.service import Stop, _Agent
from agent.settings import AgentSettings, Exit
from agent.tunnels.servers import read_servers
from tests.agent.conftest import Source
from tests.tunnels import lab, providers
from tests.tunnels.conftest import write_credentials, write_files

pytestmark = [pytest.mark.tunnels, pytest.mark.envoy]
PATIENCE_S = 30.0


@pytest.fixture
async def source(plane):
    """An ADS server with nothing to send, on the other side of the cable."""
    standing_in = Source(f"{lab.NET_ADDRESS}:0", plane.authority)
    with lab.inside(lab.NET):
        await standing_in.start()
    plane.xds_port = standing_in.port
    yield standing_in
    await standing_in.stop()


@pytest.fixture
async def run(plane, source, in_exit, tmp_path):
    """`run(FILE, …)`: an agent of this process, in the exit's namespace."""
    stop, tasks = Stop(), []
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))

    def begin(*files: str) -> _Agent:
        token = tmp_path / "token"
        token.write_text("ep-exit-never-to-be-seen\n")
        exit_ = Exit(
            pool="us",
            address=lab.EXIT_ADDRESS,
            port=8443,
            tunnel_interface=lab.TUNNEL,
            servers=read_servers(write_files(tmp_path, files), write_credentials(tmp_path, files)),
            kill_switch=True,
        )
        settings = AgentSettings(
            api=URL(plane.url), state=tmp_path / "state", name="us-1", token_file=token, exit=exit_, concurrency=1
        )
        (tmp_path / "state").mkdir(mode=0o700)
        agent = _Agent(settings, StateFolder(settings.state), session, None)
        tasks.append(asyncio.create_task(agent.live(stop)))
        return agent

    yield begin
    stop.ask()
    stop.ask()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*tasks)
    await session.close()


def resolvers(folder) -> list[str]:
    bootstrap = json.loads((folder / "state" / "bootstrap.json").read_text())
    config = bootstrap["typed_dns_resolver_config"]["typed_config"]
    return [each["socket_address"]["address"] for each in config["resolvers"]]


async def test_its_envoy_asks_the_tunnels_resolver_and_another_one_after_a_rotation(
    wireguard, internet, plane, run, until, tmp_path, ask_page
):
    other = providers.WireGuardProvider(wireguard.processes, interface="eptun-w2", port=51821, number=97)
    other.start()
    agent = run(wireguard.file(), other.file())
    await until(lambda: plane.said(tunnel="up", envoy="up"), timeout_s=PATIENCE_S)
    assert resolvers(tmp_path) == [wireguard.server]
    first = json.loads((tmp_path / "state" / "envoy.json").read_text())["pid"]

    assert await agent._tunnel.rotate() == f"{lab.NET_ADDRESS}:51821"
    await until(lambda: plane.said(tunnel="up", envoy="up"), timeout_s=PATIENCE_S)
    assert resolvers(tmp_path) == [other.server]
    assert json.loads((tmp_path / "state" / "envoy.json").read_text())["pid"] != first
    assert await ask_page(lab.PAGE) == other.address


async def test_without_a_tunnel_it_tells_why_and_starts_no_envoy_that_could_ask_somebody_else(
    processes, plane, run, until, tmp_path, internet
):
    folder = tmp_path / "provider"
    folder.mkdir()
    provider = providers.OpenVpnProvider(processes, folder)
    run(provider.file())
    await until(lambda: plane.said(tunnel="down", envoy="down"), timeout_s=PATIENCE_S)
    assert not (tmp_path / "state" / "envoy.log").exists()

    await asyncio.to_thread(provider.start)
    await until(lambda: plane.said(tunnel="up", envoy="up"), timeout_s=40)
    assert resolvers(tmp_path) == [providers.OVPN_SERVER]
