"""An exit's agent as a whole, which brings its tunnel up itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest

from tests.agent.conftest import Source
from tests.tunnels import lab, providers

pytestmark = [pytest.mark.tunnels, pytest.mark.envoy, pytest.mark.slow]
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


def state(folder, name):
    return json.loads((folder / "agent" / name).read_text())


def resolvers(folder) -> list[str]:
    config = state(folder, "bootstrap.json")["typed_dns_resolver_config"]["typed_config"]
    return [each["socket_address"]["address"] for each in config["resolvers"]]


async def test_its_envoy_asks_the_tunnels_resolver_and_another_one_after_a_rotation(
    wireguard, internet, plane, source, start_agent, agent_pid, until, tmp_path
):
    other = providers.WireGuardProvider(wireguard.processes, interface="eptun-w2", port=51821, number=97)
    other.start()
    start_agent([wireguard.file(), other.file()])
    await until(lambda: plane.said(tunnel="up", envoy="up"), timeout_s=PATIENCE_S)
    assert resolvers(tmp_path) == [wireguard.server]
    first = state(tmp_path, "envoy.json")["pid"]

    os.kill(agent_pid(), signal.SIGUSR1)
    await until(lambda: resolvers(tmp_path) == [other.server], timeout_s=PATIENCE_S)
    await until(lambda: plane.said(tunnel="up", envoy="up"), timeout_s=PATIENCE_S)
    assert state(tmp_path, "envoy.json")["pid"] != first
    await until(lambda: internet.questions[-1] == other.address)


async def test_without_a_tunnel_it_tells_why_and_starts_no_envoy_that_could_ask_somebody_else(
    processes, plane, source, start_agent, until, tmp_path, internet
):
    folder = tmp_path / "provider"
    folder.mkdir()
    provider = providers.OpenVpnProvider(processes, folder)
    start_agent([provider.file()])
    await until(lambda: plane.said(tunnel="down", envoy="down"), timeout_s=PATIENCE_S)
    assert not (tmp_path / "agent" / "envoy.log").exists()

    await asyncio.to_thread(provider.start)
    await until(lambda: plane.said(tunnel="up", envoy="up"), timeout_s=60)
    assert resolvers(tmp_path) == [providers.OVPN_SERVER]
