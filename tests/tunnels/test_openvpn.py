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


async def test_tunnel_comes_up_with_pushed_resolver(openvpn, internet, run_tunnel, until, ask_page):
    async with run_tunnel(openvpn.file()) as running:
        await until(lambda: running.is_up)
        assert running.resolvers == [(providers.OVPN_SERVER,)]
        assert await ask_page(lab.PAGE) == "10.98.0.10"
        # the tunnel has no IPv6, so IPv6 requests fail
        with pytest.raises(OSError, match="No route"):
            await ask_page(lab.PAGE_6)
        assert len(openvpn_pids()) == 1
    assert openvpn_pids() == []
    assert not lab.has_interface(lab.EXIT, lab.TUNNEL)


async def test_wrong_password_is_reported_and_retried_slowly(openvpn, internet, run_tunnel, until, waits, tmp_path):
    async with run_tunnel(openvpn.file(), password="wrong-and-never-shown") as running:
        await until(lambda: running.says("the provider refuses the name and password"))
        assert running.says("check --tunnel-credentials")
        await until(lambda: not openvpn_pids())
        await until(lambda: waits)
        assert waits[0] >= PACE.slow_base_s / 2
    assert openvpn.times_asked == 1
    logged = (tmp_path / "state" / "openvpn.log").read_text()
    assert "wrong-and-never-shown" not in logged


@pytest.mark.slow
async def test_dead_server_is_reported_and_reconnected(processes, internet, run_tunnel, until, ask_page, tmp_path):
    openvpn = providers.OpenVpnProvider(processes, tmp_path, keepalive="1 3")
    openvpn.start()
    async with run_tunnel(openvpn.file()) as running:
        await until(lambda: running.is_up)
        with capture_logs() as events:  # the report holds the newest reason alone
            openvpn.stop()
            await until(lambda: not running.is_up and [each for each in events if each["event"] == "tunnel.down"])
        reason = next(each["reason"] for each in events if each["event"] == "tunnel.down")
        assert "does not answer" in reason or "was lost" in reason
        openvpn.start()
        await until(lambda: running.is_up)
        assert await ask_page(lab.PAGE) == "10.98.0.10"


async def test_killed_openvpn_is_restarted(openvpn, internet, run_tunnel, until, ask_page):
    async with run_tunnel(openvpn.file()) as running:
        await until(lambda: running.is_up)
        (pid,) = openvpn_pids()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not running.is_up)
        await until(lambda: running.is_up)
        assert openvpn_pids() != [pid]


async def test_server_without_resolver_needs_dns_option(processes, internet, tmp_path, run_tunnel, until):
    provider = providers.OpenVpnProvider(processes, tmp_path, pushes=())
    provider.start()
    async with run_tunnel(provider.file()) as running:
        await until(lambda: running.says("names no resolver; name one with --dns"))
        assert running.resolvers == []
    async with run_tunnel(provider.file(), resolvers=(providers.OVPN_SERVER,)) as running:
        await until(lambda: running.is_up)
        assert running.resolvers == [(providers.OVPN_SERVER,)]


async def test_silent_server_times_out(network, run_tunnel, until, processes, tmp_path, monkeypatch):
    monkeypatch.setattr("agent.vpn.openvpn.openvpn.UP_WITHIN_S", 1.0)
    provider = providers.OpenVpnProvider(processes, tmp_path)
    async with run_tunnel(provider.file()) as running:
        await until(lambda: running.says("does not answer within 1 s"))
    assert openvpn_pids() == []
