"""Taking another server or address when an operator asks for it, with no client's request on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from agent.admin import AdminSilent
from agent.orders import OrderFailed
from agent.report import Board, Report, State, wait
from agent.supervisor import Supervisor
from model.errors import ExitplaneError

DRAIN_S: Final = 10.0
"""How long open requests hold it up."""
VERIFIED_WITHIN_S: Final = 90.0
_POLL_S: Final = 0.2


class Rotation:
    """The order `rotate`: `take_another` does it for the tunnel that the exit has, and gives the name of what it took."""

    def __init__(
        self,
        board: Board,
        supervisor: Callable[[], Supervisor | None],
        take_another: Callable[[], Awaitable[str]],
        *,
        drain_s: float = DRAIN_S,
        verified_within_s: float = VERIFIED_WITHIN_S,
    ) -> None:
        self._board = board
        self._supervisor = supervisor
        self._take_another = take_another
        self._drain_s = drain_s
        self._verified_within_s = verified_within_s

    async def __call__(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        """Gives `server`, and the `address` that it comes out at, once that is verified. Raises OrderFailed."""
        self._board.update(resting="it takes another server")
        try:
            await self._drain()
            try:
                server = await self._take_another()
            except ExitplaneError as error:
                raise OrderFailed(error.message, mend=error.mend) from error
            report = await self._verified()
        finally:
            self._board.update(resting="")
        return {"server": server, "address": report.observation and report.observation.address}

    async def _drain(self) -> None:
        """Until no request is open, or for as long as they may hold it up."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._drain_s
        while loop.time() < deadline_s:
            supervisor = self._supervisor()
            admin = supervisor.admin if supervisor else None
            with suppress(AdminSilent):
                if admin is None or await admin.open_requests() == 0:
                    return
            await asyncio.sleep(_POLL_S)

    async def _verified(self) -> Report:
        """The report once the tunnel is up and, where that is looked at, where it comes out is known."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._verified_within_s
        while (left_s := deadline_s - loop.time()) > 0:
            changed, report = self._board.changed, self._board.report
            seen = report.observation
            if report.tunnel is State.UP and (seen is None or seen.country is not None):
                return report
            await wait(changed, left_s)
        raise OrderFailed(
            f"it is not verified after {self._verified_within_s:g} s: {self._board.report.reason}",
            mend="see `exitplane history`; it serves as soon as it is",
        )
