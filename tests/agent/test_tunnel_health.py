"""The probes and the monitor of a tunnel."""

from __future__ import annotations

import socket

import pytest
from structlog.testing import capture_logs

from agent.config.settings import ExitSettings
from agent.config.status import HealthState, StatusBoard
from agent.net.interfaces import check_flags, check_interface
from agent.vpn.tunnel_health import HealthProbe, TunnelMonitor, check_target, probes_of
from model.endpoint import Endpoint
from tests.tasks import running

UP, RUNNING = 0x1, 0x40


def scripted(*findings):
    """Return a probe that gives the results in order, and the last one from then on."""
    left = list(findings)

    async def probe():
        return left.pop(0) if len(left) > 1 else left[0]

    return probe


@pytest.mark.parametrize(
    ("patience", "found", "failures"),
    [
        (1, [None, "x", None, "x"], [None, "x", None, "x"]),
        (2, [None, "x", "x", None, "x", None, "x", "y"], [None, None, "x", None, None, None, None, "y"]),
        # a probe has failed until its first success
        (2, ["x", None], ["x", None]),
    ],
)
async def test_probe_fails_after_patience_and_succeeds_at_once(patience, found, failures):
    check = HealthProbe(scripted(*found), patience=patience)

    assert [await check.check() for _ in found] == failures


async def test_monitor_puts_first_failure_on_board():
    board = StatusBoard()
    watch = TunnelMonitor(
        [HealthProbe(scripted("a", "a", None)), HealthProbe(scripted("b", None, "c"))], board, period_s=1
    )
    seen = []
    with capture_logs() as logs:
        for _ in range(5):
            await watch.observe()
            seen.append((board.report.tunnel, board.report.reason))

    down, up = HealthState.DOWN, HealthState.UP
    assert seen == [(down, "a"), (down, "a"), (down, "b"), (up, ""), (down, "c")]
    assert [(entry["event"], entry["reason"]) for entry in logs] == [
        ("tunnel.down", "a"),
        ("tunnel.down", "b"),
        ("tunnel.up", ""),
        ("tunnel.down", "c"),
    ]


async def test_tunnel_without_probes_is_up_with_reason():
    board = StatusBoard()
    await TunnelMonitor(probes_of(ExitSettings("us", "192.0.2.3", 8443)), board, period_s=1).observe()

    assert (board.report.tunnel, board.report.reason) == (HealthState.UP, "not watched")


async def test_monitor_repeats_checks(until):
    board = StatusBoard()
    async with running(TunnelMonitor([HealthProbe(scripted(None, None, "x"))], board, period_s=0.01).run()):
        await until(lambda: board.report.reason == "x")


def test_probes_follow_settings_of_exit():
    exit_ = ExitSettings("us", "192.0.2.3", 8443, tunnel_interface="wg0", probe=Endpoint("192.0.2.1", 443))

    assert [check.patience for check in probes_of(exit_)] == [1, 2]


# -- interfaces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "failure"),
    [
        (UP | RUNNING, None),
        (UP, "interface wg0 has no carrier"),
        (RUNNING, "interface wg0 is down"),
        (0, "interface wg0 is down"),
    ],
)
def test_interface_must_be_up_and_running(flags, failure):
    assert check_flags("wg0", flags) == failure


async def test_check_interface_asks_kernel():
    assert await check_interface("lo") is None
    assert await check_interface("no-such-one") == "interface no-such-one is not there"


# -- targets -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Endpoint("127.0.0.1", listening.getsockname()[1])


@pytest.mark.parametrize(
    ("interface", "source"), [(None, None), ("lo", None), (None, "127.0.0.5"), ("lo", "127.0.0.5")]
)
async def test_target_that_answers_succeeds(listener, interface, source):
    assert await check_target(listener, interface, source) is None


async def test_target_that_refuses_has_reason(listener):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        target = Endpoint("127.0.0.1", closed.getsockname()[1])

    assert (
        await check_target(target, None, None) == f"{target} cannot be reached through the tunnel (Connection refused)"
    )


async def test_target_is_reached_through_tunnel_alone(listener):
    assert "No such device" in await check_target(listener, "no-such-one", None)
    assert "Cannot assign" in await check_target(listener, None, "192.0.2.200")


async def test_silent_target_times_out(monkeypatch):
    monkeypatch.setattr("agent.vpn.tunnel_health.PROBE_TIMEOUT_S", 0.05)
    with socket.socket() as full:
        # a full accept queue drops new connections silently
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        target = Endpoint("127.0.0.1", full.getsockname()[1])
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex((target.host, target.port))
        failure = await check_target(target, None, None)
        for each in waiting:
            each.close()

    assert failure == f"{target} does not answer through the tunnel"
