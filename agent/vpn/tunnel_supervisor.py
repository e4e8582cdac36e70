"""The supervisor of one tunnel: it brings the tunnel up, restarts it when it dies, and takes another server on demand or in need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog

from agent.config.status import HealthState, StatusBoard, wait
from agent.net.backoff import Backoff
from agent.net.commands import CommandFailed
from agent.net.host_lookup import UnknownHost
from agent.vpn.driver import ActiveTunnel, TunnelDriver
from agent.vpn.errors import NotEquipped, TunnelFailed
from agent.vpn.slots import InterfaceSlot
from model.errors import ExitplaneError

log = structlog.get_logger()

SWITCH_AFTER: Final = 3
"""Failures in a row after which the next server is tried, if there is one."""
_STABLE_S: Final = 60.0
"""A tunnel that lasted this long resets the backoff."""
_FAILURES: Final = (TunnelFailed, UnknownHost, NotEquipped, CommandFailed)

OnUp: TypeAlias = Callable[[ActiveTunnel, InterfaceSlot], Awaitable[None]]
"""Routes clients through the tunnel that is up in a slot."""
RotationRequest: TypeAlias = asyncio.Future[str]
"""A request to take another server. Its result is the name of the server that is in use then."""


@dataclass(frozen=True, slots=True)
class StandbyTunnel:
    """A verified tunnel beside the one that carries clients. `taken` is done once it carries them."""

    number: int
    slot: InterfaceSlot
    tunnel: ActiveTunnel
    taken: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class RetryPace:
    """The intervals of a supervisor, all in seconds."""

    check_s: float = 1.0
    retry_base_s: float = 0.5
    retry_limit_s: float = 30.0
    slow_base_s: float = 30.0
    """After the provider refused the credentials: frequent attempts get an account locked."""
    slow_limit_s: float = 600.0
    useless_after_s: float = 10.0
    """The time that the exit's probes may fail before the tunnel is restarted."""
    resolver_s: float = 3.0
    """The interval of queries to the tunnel's resolvers while they answer."""


DEFAULT_PACE: Final = RetryPace()


class TunnelSupervisor:
    """The supervisor of a tunnel to one of several servers.

    `drivers` are the servers, in the order in which they are tried. `on_up` is awaited for each tunnel that is to carry clients. One of
    the two `slots` holds that tunnel, and the other one the next server's during a seamless rotation.

    `check` is the first probe of a TunnelMonitor. A failure of the tunnel is put on the board at once.
    """

    def __init__(
        self,
        drivers: Sequence[TunnelDriver],
        slots: tuple[InterfaceSlot, InterfaceSlot],
        board: StatusBoard,
        on_up: OnUp,
        pace: RetryPace = DEFAULT_PACE,
    ) -> None:
        self._drivers = drivers
        self._slots = slots
        self._slot = slots[0]
        self._carrying: ActiveTunnel | None = None
        """The tunnel that carries clients."""
        self._board = board
        self._on_up = on_up
        self._pace = pace
        self._current = 0
        self._failures = 0
        self._backoff = Backoff(pace.retry_base_s, pace.retry_limit_s)
        self._slow_backoff = Backoff(pace.slow_base_s, pace.slow_limit_s)
        self._down_reason: str | None = "the tunnel is being brought up"
        self._request: RotationRequest | None = None
        self._standby: StandbyTunnel | None = None
        self._last_tried: int | None = None
        """The server that a seamless rotation tries, or tried last without success."""
        self._wake_up = asyncio.Event()
        self._rotation_lock = asyncio.Lock()

    @property
    def server(self) -> str:
        """The name of the server that is in use, or tried."""
        return self._drivers[self._current].server

    async def check(self) -> str | None:
        """Return what is wrong with the tunnel, or None."""
        return self._down_reason

    async def run(self) -> None:
        """Keep the tunnel up until cancelled. It stays up then, until `stop`."""
        while True:
            wait_s = await self._run_once()
            if wait_s > 0 and not self._is_rotation_requested():
                log.info("tunnel.retry_scheduled", server=self.server, in_s=round(wait_s, 1))
                await wait(self._wake_up, wait_s)

    async def stop(self) -> None:
        """Take down all tunnels."""
        self._report_down("the agent ends")
        for driver in self._drivers:
            await _take_down(driver)

    @property
    def can_rotate_seamlessly(self) -> bool:
        """True if another server can be tried while the current one carries clients."""
        return self._down_reason is None and self._next_for_other_slot() is not None

    async def rotate_seamlessly(self, verify: OnUp, finish: Callable[[], Awaitable[None]]) -> str:
        """Bring up another server, await `verify`, switch to it, and return its name. Check `can_rotate_seamlessly` before.

        The old tunnel goes down after `finish`. Raises what `verify` raises, and what keeps the tunnel from coming up; the old one
        then carries clients still, and the next rotation tries another server.
        """
        async with self._rotation_lock:
            number = self._next_for_other_slot()
            if number is None:
                raise TunnelFailed("there is no other server", hint="name another with --tunnel")
            self._last_tried = number
            driver, slot = self._drivers[number], self._slots[self._slot == self._slots[0]]
            try:
                await driver.down()
                tunnel = await driver.up(slot)
                await verify(tunnel, slot)
                await self._offer(StandbyTunnel(number, slot, tunnel, asyncio.get_running_loop().create_future()))
                self._last_tried = None
                log.info("tunnel.switched", server=tunnel.server, interface=slot.interface)
                await finish()
            finally:
                for other in (each for each in self._drivers if each is not self._drivers[self._current]):
                    await _take_down(other)
            return tunnel.server

    async def _offer(self, standby: StandbyTunnel) -> None:
        """Have `run` switch to a tunnel. Raises what keeps it from that."""
        self._standby = standby
        self._wake_up.set()
        try:
            await standby.taken
        finally:
            self._standby = None

    def _next_for_other_slot(self) -> int | None:
        """Choose a server other than the current one and, if there are more, than the one that failed last."""
        count = len(self._drivers)
        start = self._current if self._last_tried is None else self._last_tried
        others = ((start + step) % count for step in range(1, count + 1))
        return next((each for each in others if self._drivers[each].server != self.server), None)

    async def rotate(self) -> str:
        """Take the next server, or restart the only one, and return the name of the server that is in use then.

        The tunnel is down meanwhile: this is for a tunnel that is down anyway, or has no other server. If the new server does not come
        up, the one before is brought up again.
        """
        async with self._rotation_lock:
            request: RotationRequest = asyncio.get_running_loop().create_future()
            self._request = request
            self._wake_up.set()
            return await request

    def _is_rotation_requested(self) -> bool:
        return self._request is not None

    # -- one run of a tunnel, from its start to its end

    async def _run_once(self) -> float:
        """Bring the tunnel up and watch it until it ends. Return the seconds until the next start."""
        self._wake_up.clear()
        request, self._request = self._request, None
        before = self._current
        if request is not None:
            self._current = (self._current + 1) % len(self._drivers)
        started_s = asyncio.get_running_loop().time()
        if not await self._switch_to_standby():
            try:
                tunnel = await self._bring_up()
            except _FAILURES as failure:
                return await self._handle_failure(failure, request, before)
            _answer(request, tunnel.server)
        self._failures = 0
        await self._watch()
        if asyncio.get_running_loop().time() - started_s > _STABLE_S:
            self._backoff.reset()
            self._slow_backoff.reset()
        return 0.0 if self._is_rotation_requested() else self._backoff.next_s()

    async def _bring_up(self) -> ActiveTunnel:
        driver = self._drivers[self._current]
        await driver.down()  # what a killed agent left
        tunnel = await driver.up(self._slot)
        await self._on_up(tunnel, self._slot)
        log.info("tunnel.brought_up", server=tunnel.server, resolvers=list(tunnel.resolvers))
        self._carrying, self._down_reason = tunnel, None
        return tunnel

    async def _switch_to_standby(self) -> bool:
        """Switch to the standby tunnel if there is one. Return True if it carries clients now; a failure changes nothing."""
        standby, self._standby = self._standby, None
        if standby is None or standby.taken.done():
            return False
        before = self._current, self._slot
        self._current, self._slot = standby.number, standby.slot
        try:
            await self._on_up(standby.tunnel, standby.slot)
        except _FAILURES as failure:
            self._current, self._slot = before
            await self._restore()
            if not standby.taken.done():
                standby.taken.set_exception(failure)
            return False
        self._carrying, self._down_reason = standby.tunnel, None
        if not standby.taken.done():
            standby.taken.set_result(None)
        return True

    async def _restore(self) -> None:
        """Route clients through the tunnel that carried them before."""
        if self._carrying is not None:
            try:
                await self._on_up(self._carrying, self._slot)
            except _FAILURES as failure:
                log.warning("tunnel.restore_failed", server=self.server, reason=str(failure))

    async def _handle_failure(self, failure: ExitplaneError, request: RotationRequest | None, before: int) -> float:
        """Report why the tunnel did not come up, and choose the next server. Return the seconds until it is tried."""
        self._report_down(str(failure))
        await self._take_current_down()
        if request is not None and self._current != before:
            self._current = before
            _answer(request, self.server)
            return 0.0
        _answer(request, self.server)
        self._failures += 1
        retry_slowly = isinstance(failure, TunnelFailed) and failure.retry_slowly
        if not retry_slowly and self._failures % SWITCH_AFTER == 0:
            following = (self._current + 1) % len(self._drivers)
            self._current = self._current if self._is_tried_in_other_slot(following) else following
        return (self._slow_backoff if retry_slowly else self._backoff).next_s()

    async def _watch(self) -> None:
        """Return once the tunnel is dead or of no use, or another server is requested."""
        loop = asyncio.get_running_loop()
        last_useful_s = loop.time()
        while True:
            if await wait(self._wake_up, self._pace.check_s):
                self._wake_up.clear()
                if self._is_rotation_requested():
                    self._report_down("the tunnel takes another server")
                    break
                if await self._switch_to_standby():
                    last_useful_s = loop.time()
                continue
            failure = await self._drivers[self._current].check()
            if self._board.report.tunnel is HealthState.UP:
                last_useful_s = loop.time()
            elif failure is None and loop.time() - last_useful_s >= self._pace.useless_after_s:
                failure = self._board.report.reason
            if failure is not None:
                self._report_down(failure)
                break
        await self._take_current_down()

    def _is_tried_in_other_slot(self, number: int) -> bool:
        return self._rotation_lock.locked() and self._last_tried == number

    async def _take_current_down(self) -> None:
        self._carrying = None
        await _take_down(self._drivers[self._current])

    def _report_down(self, reason: str) -> None:
        """Put the reason on the board at once, before the monitor's next check."""
        if reason != self._down_reason:
            log.warning("tunnel.failed", server=self.server, reason=reason)
        self._down_reason = reason
        self._board.update(tunnel=HealthState.DOWN, reason=reason)


def _answer(request: RotationRequest | None, server: str) -> None:
    if request is not None and not request.done():
        request.set_result(server)


async def _take_down(driver: TunnelDriver) -> None:
    try:
        await driver.down()
    except _FAILURES as failure:
        log.warning("tunnel.removal_failed", reason=str(failure))
