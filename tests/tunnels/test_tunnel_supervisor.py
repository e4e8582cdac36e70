"""The tunnel supervisor, with scripted drivers."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import pytest

from agent.config.status import HealthState, StatusBoard
from agent.vpn.driver import ActiveTunnel
from agent.vpn.errors import TunnelFailed
from agent.vpn.slots import InterfaceSlot, slots_of
from agent.vpn.tunnel_supervisor import RetryPace, TunnelSupervisor

FAST = RetryPace(
    check_s=0.01, retry_base_s=0.01, retry_limit_s=0.02, slow_base_s=60.0, slow_limit_s=60.0, useless_after_s=0.1
)


@dataclass
class ScriptedDriver:
    """A driver that records its calls and fails on demand."""

    server: str
    calls: list[str]
    failure: TunnelFailed | None = None
    check_result: str | None = None
    is_up: bool = False
    slot: InterfaceSlot | None = None

    async def up(self, slot):
        self.calls.append(f"up {self.server}")
        self.slot = slot
        if self.failure is not None:
            raise self.failure
        self.is_up, self.check_result = True, None
        return ActiveTunnel(self.server, ("10.0.0.1",))

    async def check(self):
        return self.check_result

    async def down(self):
        self.is_up = False


@dataclass
class SupervisorHarness:
    drivers: list[ScriptedDriver]
    board: StatusBoard
    supervisor: TunnelSupervisor
    calls: list[str]
    carried: list[str] = field(default_factory=list)

    def ups(self, server: str) -> int:
        return self.calls.count(f"up {server}")


@pytest.fixture
def run_supervisor():
    @contextlib.asynccontextmanager
    async def begin(*servers, pace=FAST, unusable=(), **failures):
        calls = []
        drivers = [ScriptedDriver(server, calls, failures.get(server)) for server in servers]
        board, carried = StatusBoard(), []

        async def carry(tunnel, slot):
            carried.append(tunnel.server)
            if tunnel.server in unusable:
                raise TunnelFailed("its routes cannot be laid")
            board.update(tunnel=HealthState.UP, reason="")  # as the monitor does when all probes succeed

        harness = SupervisorHarness(
            drivers, board, TunnelSupervisor(drivers, slots_of("ep0"), board, carry, pace), calls, carried
        )
        running = asyncio.create_task(harness.supervisor.run())
        yield harness
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await harness.supervisor.stop()
        assert not any(driver.is_up for driver in drivers)

    return begin


async def test_failed_tunnel_is_reported_at_once_and_restarted(run_supervisor, until):
    async with run_supervisor("a") as harness:
        await until(lambda: harness.carried == ["a"])
        assert await harness.supervisor.check() is None
        reasons = []
        update = harness.board.update
        harness.board.update = lambda **changes: (reasons.append(changes.get("reason")), update(**changes))
        harness.drivers[0].check_result = "interface ep0 is not there"
        await until(lambda: harness.carried == ["a", "a"])
        assert reasons[0] == "interface ep0 is not there"


async def test_refused_login_is_retried_slowly_on_same_server(run_supervisor, until, waits):
    refused = TunnelFailed("the provider refuses the name and password", retry_slowly=True)
    async with run_supervisor("a", "b", a=refused) as harness:
        await until(lambda: waits)
        assert waits[0] >= FAST.slow_base_s / 2
        assert harness.board.report.reason == refused.message
        assert harness.calls == ["up a"]


async def test_next_server_is_taken_after_three_failures(run_supervisor, until):
    async with run_supervisor("a", "b", a=TunnelFailed("no")) as harness:
        await until(lambda: harness.carried == ["b"])
        assert harness.calls == ["up a"] * 3 + ["up b"]


async def test_useless_tunnel_is_restarted(run_supervisor, until):
    async with run_supervisor("a") as harness:
        await until(lambda: harness.carried == ["a"])
        harness.board.update(tunnel=HealthState.DOWN, reason="the target does not answer")
        await until(lambda: harness.carried == ["a", "a"])


async def test_rotate_with_one_server_restarts_it(run_supervisor, until):
    async with run_supervisor("a") as harness:
        await until(lambda: harness.carried == ["a"])
        assert await harness.supervisor.rotate() == "a"
        assert harness.ups("a") == 2


async def test_concurrent_rotations_run_one_after_another(run_supervisor, until):
    async with run_supervisor("a", "b", "c") as harness:
        await until(lambda: harness.carried == ["a"])
        assert await asyncio.gather(*(harness.supervisor.rotate() for _ in range(3))) == ["b", "c", "a"]


async def test_rotate_interrupts_slow_retry(run_supervisor, until):
    refused = TunnelFailed("refused", retry_slowly=True)
    async with run_supervisor("a", "b", a=refused) as harness:
        await until(lambda: harness.board.report.reason == "refused")
        assert await harness.supervisor.rotate() == "b"
        assert await harness.supervisor.check() is None


async def test_rotate_returns_old_server_if_next_fails(run_supervisor, until):
    async with run_supervisor("a", "b", b=TunnelFailed("no")) as harness:
        await until(lambda: harness.carried == ["a"])
        assert await harness.supervisor.rotate() == "a"
        await until(lambda: harness.carried == ["a", "a"])
        assert harness.ups("b") == 1


async def nothing(*_):
    """Do nothing, as verification and as drain."""


async def test_seamless_rotation_uses_other_slot_while_old_tunnel_carries(run_supervisor, until):
    async with run_supervisor("a", "b") as harness:
        await until(lambda: harness.supervisor.can_rotate_seamlessly)
        changed, (old, new) = harness.board.changed, harness.drivers

        async def verify(line, slot):
            assert (old.is_up, new.is_up) == (True, True)
            assert (old.slot.interface, slot.interface) == ("ep0", "ep0-b")
            assert harness.carried == ["a"]

        async def clear():
            assert harness.carried == ["a", "b"]
            assert old.is_up

        assert await harness.supervisor.rotate_seamlessly(verify, clear) == "b"
        assert (old.is_up, new.is_up) == (False, True)
        assert not changed.is_set()  # the board did not change
        assert await harness.supervisor.rotate_seamlessly(nothing, nothing) == "a"
        assert old.slot.interface == "ep0"


async def test_unverified_server_is_taken_down_and_nothing_changes(run_supervisor, until):
    async with run_supervisor("a", "b") as harness:
        await until(lambda: harness.supervisor.can_rotate_seamlessly)

        async def verify(*_):
            raise TunnelFailed("it is elsewhere")

        with pytest.raises(TunnelFailed, match="elsewhere"):
            await harness.supervisor.rotate_seamlessly(verify, nothing)
        assert [driver.is_up for driver in harness.drivers] == [True, False]
        assert harness.carried == ["a"]
        assert harness.supervisor.server == "a"


async def test_unusable_server_gives_way_to_old_one(run_supervisor, until):
    async with run_supervisor("a", "b", unusable=("b",)) as harness:
        await until(lambda: harness.supervisor.can_rotate_seamlessly)
        with pytest.raises(TunnelFailed, match="its routes"):
            await harness.supervisor.rotate_seamlessly(nothing, nothing)
        assert harness.carried == ["a", "b", "a"]
        assert [driver.is_up for driver in harness.drivers] == [True, False]


async def test_server_in_seamless_trial_does_not_replace_dead_one(run_supervisor, until):
    async with run_supervisor("a", "b") as harness:
        await until(lambda: harness.supervisor.can_rotate_seamlessly)
        old, new = harness.drivers

        async def verify(*_):
            old.failure, old.check_result = TunnelFailed("gone"), "gone"
            await until(lambda: harness.ups("a") > 7)

        assert await harness.supervisor.rotate_seamlessly(verify, nothing) == "b"
        assert harness.ups("b") == 1
        assert new.is_up
        assert await harness.supervisor.check() is None


async def test_no_seamless_rotation_with_one_server_or_tunnel_down(run_supervisor, until):
    async with run_supervisor("a") as harness:
        await until(lambda: harness.carried == ["a"])
        assert not harness.supervisor.can_rotate_seamlessly
    async with run_supervisor("a", "b") as harness:
        assert not harness.supervisor.can_rotate_seamlessly
