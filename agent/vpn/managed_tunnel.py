"""An exit's tunnel and kill switch as one unit that the agent starts, watches, rotates and stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import structlog

from agent.config.settings import ExitSettings
from agent.config.status import StatusBoard
from agent.net.active_interface import ActiveInterface
from agent.net.commands import CommandFailed
from agent.vpn import policy_routing
from agent.vpn.connection_pinning import ConnectionPinning
from agent.vpn.driver import ActiveTunnel
from agent.vpn.errors import TunnelFailed
from agent.vpn.firewall import nftables
from agent.vpn.firewall.kill_switch import KillSwitch
from agent.vpn.registry import LINK_KINDS, driver_of
from agent.vpn.requirements import NFT, require, require_for
from agent.vpn.resolver_probe import RESOLVER_PATIENCE, ResolverProbe
from agent.vpn.slots import InterfaceSlot, slots_of
from agent.vpn.tunnel_health import HealthProbe, probes_of
from agent.vpn.tunnel_supervisor import DEFAULT_PACE, RetryPace, TunnelSupervisor
from agent.vpn.verification import Look, verify, with_tunnel
from model.endpoint import Endpoint

log = structlog.get_logger()

OnResolvers: TypeAlias = Callable[[tuple[str, ...]], Awaitable[None]]
Drain: TypeAlias = Callable[[], Awaitable[None]]
"""Waits until no client's request is open, for a limited time."""


@dataclass(frozen=True, slots=True)
class RotationResult:
    """The name of the new server, and the public address behind it if that was observed."""

    server: str
    address: str | None


class ManagedTunnel:
    """The tunnel and the kill switch of one exit.

    The agent and its Envoy reach `control` outside the tunnel. `on_resolvers` is awaited with the resolvers of each tunnel that comes to
    carry clients. Connections to `ports` are answered outside the tunnel, as those to the exit's own port are.
    """

    def __init__(
        self,
        exit_: ExitSettings,
        control: Iterable[Endpoint],
        folder: Path,
        board: StatusBoard,
        on_resolvers: OnResolvers,
        pace: RetryPace = DEFAULT_PACE,
        ports: Iterable[int] = (),
    ) -> None:
        self._exit = exit_
        self._board = board
        self._on_resolvers = on_resolvers
        self.kill_switch = KillSwitch(exit_, control, ports)
        self.supervisor: TunnelSupervisor | None = None
        """None for a tunnel that somebody else brings up."""
        self.active = ActiveInterface(exit_.tunnel_interface, exit_.resolvers)
        self._carrying: ActiveTunnel | None = None
        """The tunnel that carries clients, or carried them last."""
        self._resolver_probe = ResolverProbe(self.active, pace.resolver_s)
        self._pinning = ConnectionPinning()
        self._started = False
        if exit_.servers:
            assert exit_.tunnel_interface is not None
            self._slots = slots_of(exit_.tunnel_interface)
            drivers = [driver_of(each).make(each, folder, self.kill_switch.resolve) for each in exit_.servers]
            self.supervisor = TunnelSupervisor(drivers, self._slots, board, self._carry_clients, pace)

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Close the kill switch, then bring the tunnel up in `tasks`. Raises ExitplaneError before it starts anything."""
        require_for(self._exit)
        if self.supervisor is not None:
            for slot in self._slots:
                await policy_routing.remove_interface(slot.interface, LINK_KINDS)  # what a killed agent left
        self._started = True
        await self.kill_switch.allow_control()
        if self.supervisor is not None:
            await self._pinning.remove()
            tasks.create_task(self.supervisor.run(), name="tunnel supervisor")
        tasks.create_task(self.kill_switch.run(), name="kill switch")

    def probes(self) -> list[HealthProbe]:
        """Return the probes of the tunnel: the supervisor's state, those of the settings, and that of the resolvers."""
        if self.supervisor is None:
            return probes_of(self._exit)
        own = probes_of(self._exit, lambda: self.active.interface)
        return [HealthProbe(self.supervisor.check), *own, HealthProbe(self._resolver_probe, RESOLVER_PATIENCE)]

    async def rotate(self) -> str:
        """Replace the current server and return the new one's name. Raises TunnelFailed for somebody else's tunnel."""
        if self.supervisor is None:
            raise TunnelFailed("the tunnel is not the agent's to change", hint="ask whoever brings it up")
        return await self.supervisor.rotate()

    @property
    def can_rotate_seamlessly(self) -> bool:
        """True if another server can be tried while the current one carries clients."""
        return self.supervisor is not None and self.supervisor.can_rotate_seamlessly

    async def rotate_seamlessly(self, country: str | None, look: Look | None, drain: Drain) -> RotationResult:
        """Verify another server while the current one carries clients, then switch to it. Raises ExitplaneError.

        The new server's address must be in `country` (ISO 3166-1 alpha-2, in lower case); None accepts every known country.
        Connections of the old tunnel stay on it until they end or `drain` returns. If the resolvers differ, Envoy has to restart: the
        exit pauses and `drain` comes before the switch. A failure changes nothing.
        """
        assert self.supervisor is not None
        observation, drained = None, False

        async def prepare(tunnel: ActiveTunnel, slot: InterfaceSlot) -> None:
            nonlocal observation, drained
            resolvers = self._resolvers_of(tunnel)
            observation = await verify(with_tunnel(self._exit, slot.interface, resolvers), country, look)
            if resolvers != self.active.resolvers:
                self._board.update(paused="it takes another server")
                await drain()
                drained = True

        async def finish() -> None:
            if not drained:
                await drain()
            await self._close_old_connections()

        try:
            server = await self.supervisor.rotate_seamlessly(prepare, finish)
        finally:
            self._board.update(paused="")
            await self._close_old_connections()
        return RotationResult(server, observation.address if observation else None)

    async def stop(self) -> None:
        """Take the tunnel down. The kill switch stays closed, as other programs of the namespace may still run."""
        if not self._started:
            return
        if self.supervisor is not None:
            await self.supervisor.stop()
            await self._pinning.remove()
            try:
                await policy_routing.remove_all(self._slots)
            except CommandFailed as error:
                log.warning("tunnel.routes_not_removed", reason=str(error))
        if self._exit.kill_switch:
            log.info("kill_switch.left_closed", hint="Run `exitplane agent --open-kill-switch` to open it.")

    async def _carry_clients(self, tunnel: ActiveTunnel, slot: InterfaceSlot) -> None:
        """Route clients through a tunnel that is up. Raises TunnelFailed and CommandFailed."""
        resolvers = self._resolvers_of(tunnel)
        if slot.interface == self.active.interface:
            await self._pinning.pin_to(slot)
            await policy_routing.route_all_through(slot.interface, tunnel.networks)
            self.active.resolvers = resolvers
        else:
            async with self.active.lock:
                await self._pin_old_addresses(tunnel)
                await self._pinning.pin_to(slot, self._carrying)
                await policy_routing.route_all_through(slot.interface, tunnel.networks)
                self.active.interface, self.active.resolvers = slot.interface, resolvers
        self._carrying = tunnel
        self._resolver_probe.reset()
        await self._on_resolvers(resolvers)

    async def _pin_old_addresses(self, new: ActiveTunnel) -> None:
        """Route packets from the old tunnel's addresses through it, while it is up."""
        old = self._carrying
        for slot in self._slots:
            if old is not None and slot.interface == self.active.interface:
                await policy_routing.pin_addresses(slot, set(old.addresses) - set(new.addresses))

    async def _close_old_connections(self) -> None:
        """Close the connections that are pinned to a slot which carries clients no longer."""
        for slot in self._slots:
            if slot.interface != self.active.interface:
                await self._pinning.close_connections(slot)
        try:
            await policy_routing.unpin_addresses()
        except CommandFailed as error:
            log.warning("tunnel.routes_not_removed", reason=str(error))

    def _resolvers_of(self, tunnel: ActiveTunnel) -> tuple[str, ...]:
        resolvers = self._exit.resolvers or tunnel.resolvers
        if not resolvers:
            raise TunnelFailed(f"{tunnel.server} names no resolver", hint="name one with --dns", retry_slowly=True)
        return resolvers


async def open_kill_switch() -> None:
    """Remove the kill switch that an agent left in this namespace. Raises ExitplaneError."""
    require(NFT)
    await nftables.open_()
