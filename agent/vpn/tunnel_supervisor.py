"""Keeps one tunnel up: brings it up, notices its death, brings it up again, and takes another server when asked or in need."""

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
_FAILURES: Final = (TunnelFailed, UnknownHost, NotEquipped, CommandFailed)

OnUp: TypeAlias = Callable[[ActiveTunnel, InterfaceSlot], Awaitable[None]]
"""Has clients go by the tunnel that is up on a slot."""
Wish: TypeAlias = asyncio.Future[str]
"""To take another server; its result is the server that is in use then."""


@dataclass(frozen=True, slots=True)
class StandbyTunnel:
    """A tunnel that is up beside the one that carries clients, and verified; `taken` is done when it carries them."""

    number: int
    slot: InterfaceSlot
    line: ActiveTunnel
    taken: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class RetryPace:
    """How often is looked, how soon tried again, and for how long a tunnel may carry nothing. All in seconds."""

    check_s: float = 1.0
    retry_base_s: float = 0.5
    retry_limit_s: float = 30.0
    slow_base_s: float = 30.0
    """After the provider refused who we are: asking often gets an account locked."""
    slow_limit_s: float = 600.0
    useless_after_s: float = 10.0
    """How long the checks of the exit may fail before the tunnel is brought up anew."""
    resolver_s: float = 3.0
    """How often the tunnel's resolvers are asked while they answer."""


DEFAULT_PACE: Final = RetryPace()


class TunnelSupervisor:
    """`drivers` are the servers, in the order in which they are taken. `on_up` is awaited whenever a tunnel is to be used.

    Of the two `slots` it uses one, and the other while it takes another server.

    What it knows is its `look`, a probe that a TunnelWatch takes as its first check; deaths it puts up on the board itself.
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
        self._line: ActiveTunnel | None = None
        """What carries clients."""
        self._board = board
        self._on_up = on_up
        self._pace = pace
        self._current = 0
        self._failures = 0
        self._backoff = Backoff(pace.retry_base_s, pace.retry_limit_s)
        self._slow = Backoff(pace.slow_base_s, pace.slow_limit_s)
        self._trouble: str | None = "the tunnel is being brought up"
        self._wish: Wish | None = None
        self._candidate: StandbyTunnel | None = None
        self._tried: int | None = None
        """Which server is tried beside the present one, or was last and did not do."""
        self._woken = asyncio.Event()
        self._one_wish = asyncio.Lock()

    @property
    def server(self) -> str:
        """The name of the server that is in use, or tried."""
        return self._drivers[self._current].server

    async def look(self) -> str | None:
        """What is wrong with the tunnel, or None: a probe."""
        return self._trouble

    async def run(self) -> None:
        """Keep it up until cancelled, which leaves it as it is: `stop` takes it down."""
        while True:
            wait_s = await self._live_once()
            if wait_s > 0 and not self._wished():
                log.info("tunnel.again", server=self.server, in_s=round(wait_s, 1))
                await wait(self._woken, wait_s)

    async def stop(self) -> None:
        """Take it down, and whatever is up beside it."""
        self._note("the agent ends")
        for driver in self._drivers:
            await _take_down(driver)

    @property
    def can_rotate_seamlessly(self) -> bool:
        """Whether another server can be tried while the present one carries clients."""
        return self._trouble is None and self._next_beside() is not None

    async def rotate_seamlessly(self, verify: OnUp, clear: Callable[[], Awaitable[None]]) -> str:
        """Take another server, and keep the one before until that one is up and `verify` is content with it; gives its name.

        The one before is taken down after `clear`. Raises what `verify` raises, and what keeps the tunnel from coming up: then
        nothing is changed, and the next time another server is tried. Ask `can_rotate_seamlessly` before.
        """
        async with self._one_wish:
            number = self._next_beside()
            if number is None:
                raise TunnelFailed("there is no other server", hint="name another with --tunnel")
            self._tried = number
            driver, slot = self._drivers[number], self._slots[self._slot == self._slots[0]]
            try:
                await driver.down()
                line = await driver.up(slot)
                await verify(line, slot)
                await self._offer(StandbyTunnel(number, slot, line, asyncio.get_running_loop().create_future()))
                self._tried = None
                log.info("tunnel.taken", server=line.server, interface=slot.interface)
                await clear()
            finally:
                for left in (each for each in self._drivers if each is not self._drivers[self._current]):
                    await _take_down(left)
            return line.server

    async def _offer(self, candidate: StandbyTunnel) -> None:
        """Have `run` take it. Raises what keeps it from being used."""
        self._candidate = candidate
        self._woken.set()
        try:
            await candidate.taken
        finally:
            self._candidate = None

    def _next_beside(self) -> int | None:
        """Another server than the present one and, if there are more, than the one that did not do the last time."""
        count = len(self._drivers)
        start = self._current if self._tried is None else self._tried
        others = ((start + step) % count for step in range(1, count + 1))
        return next((each for each in others if self._drivers[each].server != self.server), None)

    async def rotate(self) -> str:
        """Take the next server, or the same anew if there is no other; gives the name of the one that is in use then.

        A server that does not come up is left again for the one before, which is then brought up as after every failure. While
        this lasts the tunnel is down: it is for a tunnel that is down anyway, or has nothing beside it.
        """
        async with self._one_wish:
            wish: Wish = asyncio.get_running_loop().create_future()
            self._wish = wish
            self._woken.set()
            return await wish

    def _wished(self) -> bool:
        return self._wish is not None

    # -- one life

    async def _live_once(self) -> float:
        """From one start to its end; gives the seconds until the next."""
        self._woken.clear()
        wish, self._wish = self._wish, None
        before = self._current
        if wish is not None:
            self._current = (self._current + 1) % len(self._drivers)
        begun_s = asyncio.get_running_loop().time()
        if not await self._adopt():
            try:
                line = await self._up()
            except _FAILURES as failure:
                return await self._fail(failure, wish, before)
            _fulfil(wish, line.server)
        self._failures = 0
        await self._watch()
        if asyncio.get_running_loop().time() - begun_s > _STABLE_S:
            self._backoff.reset()
            self._slow.reset()
        return 0.0 if self._wished() else self._backoff.next_s()

    async def _up(self) -> ActiveTunnel:
        driver = self._drivers[self._current]
        await driver.down()  # what a killed agent left
        line = await driver.up(self._slot)
        await self._on_up(line, self._slot)
        log.info("tunnel.brought_up", server=line.server, resolvers=list(line.resolvers))
        self._line, self._trouble = line, None
        return line

    async def _adopt(self) -> bool:
        """Take the candidate, if there is one; gives whether it is used now. One that cannot be used changes nothing."""
        candidate, self._candidate = self._candidate, None
        if candidate is None or candidate.taken.done():
            return False
        before = self._current, self._slot
        self._current, self._slot = candidate.number, candidate.slot
        try:
            await self._on_up(candidate.line, candidate.slot)
        except _FAILURES as failure:
            self._current, self._slot = before
            await self._carry_on()
            if not candidate.taken.done():
                candidate.taken.set_exception(failure)
            return False
        self._line, self._trouble = candidate.line, None
        if not candidate.taken.done():
            candidate.taken.set_result(None)
        return True

    async def _carry_on(self) -> None:
        """Use the tunnel again that was used before."""
        if self._line is not None:
            try:
                await self._on_up(self._line, self._slot)
            except _FAILURES as failure:
                log.warning("tunnel.not_taken_again", server=self.server, reason=str(failure))

    async def _fail(self, failure: ExitplaneError, wish: Wish | None, before: int) -> float:
        """Note why it did not come up, and choose the next server; gives the seconds until it is tried."""
        self._note(str(failure))
        await self._down()
        if wish is not None and self._current != before:
            self._current = before
            _fulfil(wish, self.server)
            return 0.0
        _fulfil(wish, self.server)
        self._failures += 1
        slowly = isinstance(failure, TunnelFailed) and failure.slowly
        if not slowly and self._failures % SWITCH_AFTER == 0:
            following = (self._current + 1) % len(self._drivers)
            self._current = self._current if self._trying_beside(following) else following
        return (self._slow if slowly else self._backoff).next_s()

    async def _watch(self) -> None:
        """Until the tunnel is dead, of no use, or another is wished for."""
        loop = asyncio.get_running_loop()
        useful_s = loop.time()
        while True:
            if await wait(self._woken, self._pace.check_s):
                self._woken.clear()
                if self._wished():
                    self._note("the tunnel takes another server")
                    break
                if await self._adopt():
                    useful_s = loop.time()
                continue
            trouble = await self._drivers[self._current].look()
            if self._board.report.tunnel is HealthState.UP:
                useful_s = loop.time()
            elif trouble is None and loop.time() - useful_s >= self._pace.useless_after_s:
                trouble = self._board.report.reason
            if trouble is not None:
                self._note(trouble)
                break
        await self._down()

    def _trying_beside(self, number: int) -> bool:
        return self._one_wish.locked() and self._tried == number

    async def _down(self) -> None:
        self._line = None
        await _take_down(self._drivers[self._current])

    def _note(self, trouble: str) -> None:
        """Say at once what is wrong, without waiting for the watch's next look."""
        if trouble != self._trouble:
            log.warning("tunnel.trouble", server=self.server, reason=trouble)
        self._trouble = trouble
        self._board.update(tunnel=HealthState.DOWN, reason=trouble)


def _fulfil(wish: Wish | None, server: str) -> None:
    if wish is not None and not wish.done():
        wish.set_result(server)


async def _take_down(driver: TunnelDriver) -> None:
    try:
        await driver.down()
    except _FAILURES as failure:
        log.warning("tunnel.not_removed", reason=str(failure))
