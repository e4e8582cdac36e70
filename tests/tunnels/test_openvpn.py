"""Real OpenVPN tunnels under supervision."""

from __future__ import annotations

import os
import signal

import pytest
from structlog.testing import capture_logs

from tests.tunnels import lab, providers
from tests.tunnels.conftest import PACE

pytestmark = [pytest.mark.tunnels, pytest.mark.timeout(600)]


def openvpn_pids():
    """Return the ids of the exit's OpenVPN processes."""
    return lab.inhabitants(lab.EXIT, "openvpn")


async def test_tunnel_comes_up_with_pushed_resolver(openvpn, internet, keep, until, ask_page):
    async with keep(openvpn.file()) as kept:
        await until(lambda: kept.is_up)
        assert kept.resolvers == [(providers.OVPN_SERVER,)]
        assert await ask_page(lab.PAGE) == "10.98.0.10"
        # the tunnel has no IPv6, so IPv6 requests fail
        with pytest.raises(OSError, match="No route"):
            await ask_page(lab.PAGE_6)
        assert len(openvpn_pids()) == 1
    assert openvpn_pids() == []
    assert not lab.has_interface(lab.EXIT, lab.TUNNEL)


async def test_wrong_password_is_reported_and_retried_slowly(openvpn, internet, keep, until, waits, tmp_path):
    async with keep(openvpn.file(), password="wrong-and-never-shown") as kept:
        await until(lambda: kept.says("the provider refuses the name and password"))
        assert kept.says("check --tunnel-credentials")
        await until(lambda: not openvpn_pids())
        await until(lambda: waits)
        assert waits[0] >= PACE.slow_base_s / 2
    assert openvpn.times_asked == 1
    logged = (tmp_path / "state" / "openvpn.log").read_text()
    assert "wrong-and-never-shown" not in logged


async def test_dead_server_is_reported_and_reconnected(processes, internet, keep, until, ask_page, tmp_path):
    openvpn = providers.OpenVpnProvider(processes, tmp_path, keepalive="1 3")
    openvpn.start()
    async with keep(openvpn.file()) as kept:
        await until(lambda: kept.is_up)
        with capture_logs() as events:  # the report holds the newest reason alone
            openvpn.stop()
            await until(lambda: not kept.is_up and [each for each in events if each["event"] == "tunnel.down"])
        reason = next(each["reason"] for each in events if each["event"] == "tunnel.down")
        assert "does not answer" in reason or "was lost" in reason
        openvpn.start()
        await until(lambda: kept.is_up)
        assert await ask_page(lab.PAGE) == "10.98.0.10"


async def test_killed_openvpn_is_restarted(openvpn, internet, keep, until, ask_page):
    async with keep(openvpn.file()) as kept:
        await until(lambda: kept.is_up)
        (pid,) = openvpn_pids()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not kept.is_up)
        await until(lambda: kept.is_up)
        assert openvpn_pids() != [pid]


async def test_server_without_resolver_needs_dns_option(processes, internet, tmp_path, keep, until):
    provider = providers.OpenVpnProvider(processes, tmp_path, pushes=())
    provider.start()
    async with keep(provider.file()) as kept:
        await until(lambda: kept.says("names no resolver; name one with --dns"))
        assert kept.resolvers == []
    async with keep(provider.file(), resolvers=(providers.OVPN_SERVER,)) as kept:
        await until(lambda: kept.is_up)
        assert kept.resolvers == [(providers.OVPN_SERVER,)]


async def test_silent_server_times_out(network, keep, until, processes, tmp_path, monkeypatch):
    monkeypatch.setattr("agent.vpn.openvpn.openvpn.UP_WITHIN_S", 1.0)
    provider = providers.OpenVpnProvider(processes, tmp_path)
    async with keep(provider.file()) as kept:
        await until(lambda: kept.says("does not answer within 1 s"))
    assert openvpn_pids() == []
