"""Taking another server or address when an operator asks for it, with no client's request on the way.

A tunnel of the agent's own keeps the old server until the new one is verified (`TunnelRotation`). Where there is one tunnel and no room
for a second beside it, the exit rests meanwhile (`Rotation`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from agent.config.status import AgentStatus, HealthState, StatusBoard, wait
from agent.control.orders import OrderFailed
from agent.envoy.admin import AdminUnreachable
from agent.envoy.supervisor import EnvoySupervisor
from agent.vpn.managed_tunnel import RotationResult
from agent.vpn.verification import Look
from model.errors import ExitplaneError

DRAIN_S: Final = 10.0
"""How long open requests hold it up."""
VERIFIED_WITHIN_S: Final = 90.0
_POLL_S: Final = 0.2


class RotatableTunnel(Protocol):
    """A tunnel that can try another server while the present one carries clients."""

    async def rotate_seamlessly(
        self, country: str | None, look: Look | None, drain: Callable[[], Awaitable[None]]
    ) -> RotationResult:
        """As ManagedTunnel's."""


class RequestDrain:
    """Waits until no request is open at the Envoy that runs, or for as long as they may hold it up."""

    def __init__(self, supervisor: Callable[[], EnvoySupervisor | None], limit_s: float = DRAIN_S) -> None:
        self._supervisor = supervisor
        self._limit_s = limit_s

    async def __call__(self) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._limit_s
        while loop.time() < deadline_s:
            supervisor = self._supervisor()
            admin = supervisor.admin if supervisor else None
            with suppress(AdminUnreachable):
                if admin is None or await admin.open_requests() == 0:
                    return
            await asyncio.sleep(_POLL_S)


class TunnelRotation:
    """The order `rotate` for a tunnel that is up and has room beside it. `look` tells where the new one comes out."""

    def __init__(self, tunnel: RotatableTunnel, look: Look | None, drain: Callable[[], Awaitable[None]]) -> None:
        self._tunnel = tunnel
        self._look = look
        self._drain = drain

    async def __call__(self, detail: Mapping[str, Any]) -> Mapping[str, Any]:
        """Gives `server`, and the `address` that it comes out at. Raises OrderFailed: then the old one serves on.

        `country` in the detail is where it has to come out.
        """
        country = detail.get("country")
        try:
            taken = await self._tunnel.rotate_seamlessly(
                country if isinstance(country, str) else None, self._look, self._drain
            )
        except ExitplaneError as error:
            raise OrderFailed(error.message, hint=error.hint) from error
        return {"server": taken.server, "address": taken.address}


class Rotation:
    """The order `rotate`: `take_another` does it for the tunnel that the exit has, and gives the name of what it took."""

    def __init__(
        self,
        board: StatusBoard,
        supervisor: Callable[[], EnvoySupervisor | None],
        take_another: Callable[[], Awaitable[str]],
        *,
        drain_s: float = DRAIN_S,
        verified_within_s: float = VERIFIED_WITHIN_S,
    ) -> None:
        self._board = board
        self._drain = RequestDrain(supervisor, drain_s)
        self._take_another = take_another
        self._verified_within_s = verified_within_s

    async def __call__(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        """Gives `server`, and the `address` that it comes out at, once that is verified. Raises OrderFailed."""
        self._board.update(paused="it takes another server")
        try:
            await self._drain()
            try:
                server = await self._take_another()
            except ExitplaneError as error:
                raise OrderFailed(error.message, hint=error.hint) from error
            report = await self._verified()
        finally:
            self._board.update(paused="")
        return {"server": server, "address": report.observation and report.observation.address}

    async def _verified(self) -> AgentStatus:
        """The report once the tunnel is up and, where that is looked at, where it comes out is known."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._verified_within_s
        while (left_s := deadline_s - loop.time()) > 0:
            changed, report = self._board.changed, self._board.report
            seen = report.observation
            if report.tunnel is HealthState.UP and (seen is None or seen.country is not None):
                return report
            await wait(changed, left_s)
        raise OrderFailed(
            f"it is not verified after {self._verified_within_s:g} s: {self._board.report.reason}",
            hint="see `exitplane history`; it serves as soon as it is",
        )
