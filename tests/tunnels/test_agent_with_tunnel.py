"""An exit's whole agent that brings up its tunnel itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest

from tests.agent.conftest import Answer
from tests.tunnels import lab, providers

pytestmark = [pytest.mark.tunnels, pytest.mark.timeout(600), pytest.mark.envoy, pytest.mark.slow]


def state(folder, name):
    return json.loads((folder / "agent" / name).read_text())


def envoy_pid(folder) -> int | None:
    """Return the process id of the agent's Envoy, None while it has none."""
    try:
        return state(folder, "envoy.json")["pid"]
    except FileNotFoundError:
        return None


def resolvers(folder) -> list[str]:
    config = state(folder, "bootstrap.json")["typed_dns_resolver_config"]["typed_config"]
    return [each["socket_address"]["address"] for each in config["resolvers"]]


async def test_envoy_uses_resolver_of_current_tunnel_after_rotation(
    wireguard, internet, plane, source, start_agent, agent_pid, until, tmp_path
):
    other = providers.WireGuardProvider(wireguard.processes, interface="eptun-w2", port=51821, number=97)
    other.start()
    start_agent([wireguard.file(), other.file()])
    await until(lambda: plane.said(tunnel="up", envoy="up"))
    assert resolvers(tmp_path) == [wireguard.server]
    first = envoy_pid(tmp_path)

    os.kill(agent_pid(), signal.SIGUSR1)
    await until(lambda: resolvers(tmp_path) == [other.server])
    # the last heartbeat may still be of the old Envoy
    await until(lambda: envoy_pid(tmp_path) not in {None, first})
    await until(lambda: plane.said(tunnel="up", envoy="up"))
    await until(lambda: internet.questions[-1] == other.address)


def answer_with(number: int, country: str) -> Answer:
    order = {"id": f"00000000-0000-0000-0000-{number:012}", "kind": "rotate", "detail": {"country": country}}
    return Answer(202, {"state": "healthy", "interval_s": 0.05, "orders": [order]}, "application/json")


async def test_rotate_order_takes_server_in_right_country_without_outage(
    wireguard, internet, plane, source, start_agent, until, tmp_path
):
    other = providers.WireGuardProvider(wireguard.processes, interface="eptun-w2", port=51821, number=97)
    other.start()
    internet.countries = {
        wireguard.address: "US",
        other.address: "FR",
        wireguard.address_6: "US",
        other.address_6: "FR",
    }
    here = ("--observe", f"http://{lab.PAGE}/where", "--observe", f"http://[{lab.PAGE_6}]/where")
    start_agent([wireguard.file(), other.file()], *here, "--dns", lab.PAGE)

    def seen_in(country):
        observation = plane.beats[-1].get("observation") if plane.beats else None
        return bool(observation) and observation["country"] == country

    def results():
        return {id_[-1]: result for id_, result in plane.order_results().items()}

    await until(lambda: plane.said(tunnel="up", envoy="up") and seen_in("us"))
    first, begun = envoy_pid(tmp_path), len(plane.beats)

    plane.to_beats = answer_with(1, "us")
    await until(lambda: "1" in results())
    assert f"its address {other.address} is in fr, and its pool is for us" in results()["1"]["error"]
    assert seen_in("us")

    plane.to_beats = answer_with(2, "fr")
    await until(lambda: "2" in results())
    server = f"{lab.NET_ADDRESS}:{other.port}"
    assert results()["2"]["outcome"] == {"server": server, "address": other.address}
    await until(lambda: seen_in("fr"))

    # no report had a tunnel or an Envoy down, a leak, or an unknown address
    for beat in plane.beats[begun:]:
        observation = beat["observation"]
        assert (beat["tunnel"], beat["envoy"], bool(observation["leak"])) == ("up", "up", False)
        assert observation["country"] in {"us", "fr"}
    assert envoy_pid(tmp_path) == first


async def test_agent_without_tunnel_reports_reason_and_starts_no_envoy(
    processes, plane, source, start_agent, until, tmp_path, internet
):
    folder = tmp_path / "provider"
    folder.mkdir()
    provider = providers.OpenVpnProvider(processes, folder)
    start_agent([provider.file()])
    await until(lambda: plane.said(tunnel="down", envoy="down"))
    assert not (tmp_path / "agent" / "envoy.log").exists()

    await asyncio.to_thread(provider.start)
    await until(lambda: plane.said(tunnel="up", envoy="up"))
    assert resolvers(tmp_path) == [providers.OVPN_SERVER]
