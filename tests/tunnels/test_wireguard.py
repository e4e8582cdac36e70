"""Real WireGuard tunnels under supervision."""

from __future__ import annotations

import base64
import os
from dataclasses import replace

import pytest

from agent.net.commands import run
from agent.vpn.errors import NotEquipped
from tests.tunnels import lab, providers
from tests.tunnels.conftest import PACE

pytestmark = [pytest.mark.tunnels, pytest.mark.timeout(600)]


def rules():
    return lab.ip("rule", namespace=lab.EXIT) + lab.ip("-6", "rule", namespace=lab.EXIT)


async def test_tunnel_comes_up_and_carries_everything(wireguard, internet, run_tunnel, until, ask_page):
    async with run_tunnel(wireguard.file()) as running:
        await until(lambda: running.is_up)
        assert running.resolvers == [(wireguard.server,)]
        assert await ask_page(lab.PAGE) == wireguard.address
        assert await ask_page(lab.PAGE_6) == wireguard.address_6
        assert internet.questions
        assert set(internet.questions) == {wireguard.address}
        assert "mtu 1380" in lab.ip("link", "show", lab.TUNNEL)


async def test_stop_removes_tunnel_and_keeps_kill_switch(wireguard, internet, run_tunnel, until, ask_page):
    before = rules()
    async with run_tunnel(wireguard.file()) as running:
        await until(lambda: running.is_up)
        assert rules() != before

    assert rules() == before
    assert not lab.has_interface(lab.EXIT, lab.TUNNEL)
    with pytest.raises((TimeoutError, OSError)):
        await ask_page(lab.PAGE, within_s=1)
    assert not internet.callers


async def test_deleted_interface_is_reported_and_recreated(wireguard, internet, run_tunnel, until, ask_page):
    async with run_tunnel(wireguard.file()) as running:
        await until(lambda: running.is_up)
        lab.ip("link", "delete", lab.TUNNEL)
        await until(lambda: running.says(lab.TUNNEL))
        await until(lambda: running.is_up)
        assert await ask_page(lab.PAGE) == wireguard.address


async def test_removed_routes_are_reported_and_restored(wireguard, internet, run_tunnel, until, ask_page):
    async with run_tunnel(wireguard.file()) as running:
        await until(lambda: running.is_up)
        lab.ip("route", "delete", "default", "dev", lab.TUNNEL, "table", "5253")
        await until(lambda: running.says("no IPv4 route into the tunnel"))
        await until(lambda: running.is_up)
        assert await ask_page(lab.PAGE) == wireguard.address


@pytest.mark.slow
async def test_dead_server_is_noticed_by_resolver_and_reconnected(
    wireguard, internet, run_tunnel, until, ask_page, monkeypatch
):
    async with run_tunnel(wireguard.file(), pace=replace(PACE, useless_after_s=1.0)) as running:
        await until(lambda: running.is_up)
        monkeypatch.setattr("agent.vpn.wireguard.wireguard.UP_WITHIN_S", 1.0)
        wireguard.stop()
        await until(lambda: running.says("does not answer"))
        await until(lambda: running.says("completes no handshake"))
        wireguard.start()
        await until(lambda: running.is_up)
        assert await ask_page(lab.PAGE) == wireguard.address


async def test_unknown_key_is_reported_as_missing_handshake(wireguard, internet, run_tunnel, until, monkeypatch):
    monkeypatch.setattr("agent.vpn.wireguard.wireguard.UP_WITHIN_S", 1.0)
    stranger = base64.b64encode(os.urandom(32)).decode()
    async with run_tunnel(wireguard.file(key=stranger)) as running:
        await until(lambda: running.says("completes no handshake"))
        assert running.says("check its address and the keys")
        assert stranger not in running.board.report.reason
        assert running.resolvers == []


async def test_next_server_is_taken_if_one_does_not_come_up(wireguard, internet, run_tunnel, until, monkeypatch):
    monkeypatch.setattr("agent.vpn.wireguard.wireguard.UP_WITHIN_S", 0.5)
    dead = providers.WireGuardProvider(wireguard.processes, port=51999)
    async with run_tunnel(dead.file(), wireguard.file()) as running:
        await until(lambda: running.is_up)
        assert running.tunnel.supervisor.server == f"{lab.NET_ADDRESS}:{wireguard.port}"


async def test_rotate_takes_next_server_and_its_address(wireguard, internet, run_tunnel, until, ask_page):
    other = providers.WireGuardProvider(wireguard.processes, interface="eptun-w2", port=51821, number=97)
    other.start()
    async with run_tunnel(wireguard.file(), other.file()) as running:
        await until(lambda: running.is_up)
        assert await ask_page(lab.PAGE) == wireguard.address
        assert await running.tunnel.rotate() == f"{lab.NET_ADDRESS}:51821"
        await until(lambda: running.is_up)
        assert await ask_page(lab.PAGE) == other.address
        assert running.resolvers == [(wireguard.server,), (other.server,)]
        assert await running.tunnel.rotate() == f"{lab.NET_ADDRESS}:{wireguard.port}"


async def test_rotate_returns_from_server_that_does_not_come_up(
    wireguard, internet, run_tunnel, until, ask_page, monkeypatch
):
    dead = providers.WireGuardProvider(wireguard.processes, port=51999)
    async with run_tunnel(wireguard.file(), dead.file()) as running:
        await until(lambda: running.is_up)
        monkeypatch.setattr("agent.vpn.wireguard.wireguard.UP_WITHIN_S", 0.5)
        assert await running.tunnel.rotate() == f"{lab.NET_ADDRESS}:{wireguard.port}"
        await until(lambda: running.is_up)
        assert await ask_page(lab.PAGE) == wireguard.address


async def test_residue_of_killed_agent_is_no_hindrance(wireguard, internet, run_tunnel, until, ask_page):
    lab.ip("tuntap", "add", lab.TUNNEL, "mode", "tun")
    lab.ip("rule", "add", "pref", "5254", "lookup", "5253")
    lab.ip("rule", "add", "pref", "5253", "from", "192.0.2.9", "lookup", "main")
    async with run_tunnel(wireguard.file()) as running:
        await until(lambda: running.is_up)
        assert await ask_page(lab.PAGE) == wireguard.address
        assert "192.0.2.9" not in rules()
        assert rules().count("lookup 5253") == 2


async def test_interface_that_is_no_tunnel_is_never_removed(wireguard, run_tunnel, until):
    with pytest.raises(ExceptionGroup) as raised:
        async with run_tunnel(wireguard.file(), interface=lab.OUTER) as running:
            await until(running.ended)

    assert raised.group_contains(NotEquipped, match="eptun-o exists and is no tunnel")
    assert lab.has_interface(lab.EXIT, lab.OUTER)
    assert "exitplane" not in await run("nft", "list", "tables")
