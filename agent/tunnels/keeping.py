"""Keeps one tunnel up: brings it up, notices its death, brings it up again, and takes another server when asked or in need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog

from agent.backoff import Backoff
from agent.report import Board, State, wait
from agent.tunnels.commands import CommandFailed
from agent.tunnels.driver import Driver, Line
from agent.tunnels.errors import NameUnknown, NotEquipped, TunnelFailed
from model.errors import ExitplaneError

log = structlog.get_logger()

SWITCH_AFTER: Final = 3
"""Failures in a row after which the next server is tried, if there is one."""
_STABLE_S: Final = 60.0
_FAILURES: Final = (TunnelFailed, NameUnknown, NotEquipped, CommandFailed)

OnUp: TypeAlias = Callable[[Line], Awaitable[None]]
Wish: TypeAlias = asyncio.Future[str]
"""To take another server; its result is the server that is in use then."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often is looked, how soon tried again, and for how long a tunnel may carry nothing. All in seconds."""

    look_s: float = 1.0
    retry_base_s: float = 0.5
    retry_limit_s: float = 30.0
    slow_base_s: float = 30.0
    """After the provider refused who we are: asking often gets an account locked."""
    slow_limit_s: float = 600.0
    useless_s: float = 10.0
    """How long the checks of the exit may fail before the tunnel is brought up anew."""


class TunnelKeeper:
    """`drivers` are the servers, in the order in which they are taken. `on_up` is awaited whenever a tunnel came up.

    What it knows is its `look`, a probe that a TunnelWatch takes as its first check; deaths it puts up on the board itself.
    """

    def __init__(self, drivers: Sequence[Driver], board: Board, on_up: OnUp, pace: Pace = Pace()) -> None:
        self._drivers = drivers
        self._board = board
        self._on_up = on_up
        self._pace = pace
        self._current = 0
        self._failures = 0
        self._backoff = Backoff(pace.retry_base_s, pace.retry_limit_s)
        self._slow = Backoff(pace.slow_base_s, pace.slow_limit_s)
        self._trouble: str | None = "the tunnel is being brought up"
        self._wish: Wish | None = None
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
        """Take it down."""
        self._note("the agent ends")
        await self._down()

    async def rotate(self) -> str:
        """Take the next server, or the same anew if there is no other; gives the name of the one that is in use then.

        A server that does not come up is left again for the one before, which is then brought up as after every failure. While
        this lasts the tunnel is down.
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
        try:
            line = await self._up()
        except _FAILURES as failure:
            return await self._fail(failure, wish, before)
        self._failures = 0
        _fulfil(wish, line.server)
        await self._watch()
        if asyncio.get_running_loop().time() - begun_s > _STABLE_S:
            self._backoff.reset()
            self._slow.reset()
        return 0.0 if self._wished() else self._backoff.next_s()

    async def _up(self) -> Line:
        driver = self._drivers[self._current]
        await driver.down()  # what a killed agent left
        line = await driver.up()
        await self._on_up(line)
        log.info("tunnel.brought_up", server=line.server, resolvers=list(line.resolvers))
        self._trouble = None
        return line

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
            self._current = (self._current + 1) % len(self._drivers)
        return (self._slow if slowly else self._backoff).next_s()

    async def _watch(self) -> None:
        """Until the tunnel is dead, of no use, or another is wished for."""
        driver = self._drivers[self._current]
        loop = asyncio.get_running_loop()
        useful_s = loop.time()
        while not await wait(self._woken, self._pace.look_s):
            trouble = await driver.look()
            if self._board.report.tunnel is State.UP:
                useful_s = loop.time()
            elif trouble is None and loop.time() - useful_s >= self._pace.useless_s:
                trouble = self._board.report.reason
            if trouble is not None:
                self._note(trouble)
                break
        else:
            self._note("the tunnel takes another server")
        await self._down()

    async def _down(self) -> None:
        try:
            await self._drivers[self._current].down()
        except _FAILURES as failure:
            log.warning("tunnel.not_removed", reason=str(failure))

    def _note(self, trouble: str) -> None:
        """Say at once what is wrong, without waiting for the watch's next look."""
        if trouble != self._trouble:
            log.warning("tunnel.trouble", server=self.server, reason=trouble)
        self._trouble = trouble
        self._board.update(tunnel=State.DOWN, reason=trouble)


def _fulfil(wish: Wish | None, server: str) -> None:
    if wish is not None and not wish.done():
        wish.set_result(server)
