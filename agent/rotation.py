"""The order `rotate`: moves an exit to another server or address without interrupting a client's request.

`TunnelRotation` is for tunnels that the agent manages: the old server stays until the new one is verified. `Rotation` is for a single
tunnel: the exit takes no requests meanwhile.
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
"""The longest wait for open requests."""
VERIFIED_WITHIN_S: Final = 90.0
_POLL_S: Final = 0.2


class RotatableTunnel(Protocol):
    """A tunnel that can try another server while the current one carries clients."""

    async def rotate_seamlessly(
        self, country: str | None, observe: Look | None, drain: Callable[[], Awaitable[None]]
    ) -> RotationResult:
        """Move to another server; see `ManagedTunnel.rotate_seamlessly`."""


class RequestDrain:
    """Waits until the running Envoy has no open request, but at most `limit_s`."""

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
                if admin is None or await admin.count_open_requests() == 0:
                    return
            await asyncio.sleep(_POLL_S)


class TunnelRotation:
    """The order `rotate` for a tunnel that can try a new server beside the old one. `observe` observes the new one."""

    def __init__(self, tunnel: RotatableTunnel, observe: Look | None, drain: Callable[[], Awaitable[None]]) -> None:
        self._tunnel = tunnel
        self._observe = observe
        self._drain = drain

    async def __call__(self, detail: Mapping[str, Any]) -> Mapping[str, Any]:
        """Rotate, and return `server` and its egress `address`. Raises OrderFailed; then the old server stays.

        `country` in the detail is the country that the new server must come out in.
        """
        country = detail.get("country")
        try:
            result = await self._tunnel.rotate_seamlessly(
                country if isinstance(country, str) else None, self._observe, self._drain
            )
        except ExitplaneError as error:
            raise OrderFailed(error.message, hint=error.hint) from error
        return {"server": result.server, "address": result.address}


class Rotation:
    """The order `rotate` for a single tunnel. `change_server` moves the tunnel and returns the name of the new server."""

    def __init__(
        self,
        board: StatusBoard,
        supervisor: Callable[[], EnvoySupervisor | None],
        change_server: Callable[[], Awaitable[str]],
        *,
        drain_s: float = DRAIN_S,
        verified_within_s: float = VERIFIED_WITHIN_S,
    ) -> None:
        self._board = board
        self._drain = RequestDrain(supervisor, drain_s)
        self._change_server = change_server
        self._verified_within_s = verified_within_s

    async def __call__(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        """Rotate, and return `server` and its egress `address` once that is verified. Raises OrderFailed."""
        self._board.update(paused="it takes another server")
        try:
            await self._drain()
            try:
                server = await self._change_server()
            except ExitplaneError as error:
                raise OrderFailed(error.message, hint=error.hint) from error
            report = await self._wait_until_verified()
        finally:
            self._board.update(paused="")
        return {"server": server, "address": report.observation and report.observation.address}

    async def _wait_until_verified(self) -> AgentStatus:
        """Wait until the tunnel is up and, with an observer, its country is known. Raises OrderFailed."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._verified_within_s
        while (left_s := deadline_s - loop.time()) > 0:
            changed, report = self._board.changed, self._board.report
            observation = report.observation
            if report.tunnel is HealthState.UP and (observation is None or observation.country is not None):
                return report
            await wait(changed, left_s)
        raise OrderFailed(
            f"it is not verified after {self._verified_within_s:g} s: {self._board.report.reason}",
            hint="read `exitplane history`; the exit serves once it is verified",
        )
