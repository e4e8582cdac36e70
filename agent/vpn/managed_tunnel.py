"""All of an exit's tunnel and kill switch, as the agent's life needs it: to begin, to wait for, and to end."""

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
from agent.vpn.registry import driver_of
from agent.vpn.requirements import NFT, require, require_for
from agent.vpn.resolver_probe import RESOLVER_PATIENCE, ResolverProbe
from agent.vpn.slots import InterfaceSlot, slots_of
from agent.vpn.tunnel_health import HealthProbe, checks_of
from agent.vpn.tunnel_supervisor import DEFAULT_PACE, RetryPace, TunnelSupervisor
from agent.vpn.verification import Look, verify, with_tunnel
from model.endpoint import Endpoint

log = structlog.get_logger()

OnResolvers: TypeAlias = Callable[[tuple[str, ...]], Awaitable[None]]
Drain: TypeAlias = Callable[[], Awaitable[None]]
"""Waits until no client's request is open, but not for ever."""


@dataclass(frozen=True, slots=True)
class RotationResult:
    """A server's name, and the address that it comes out at, where that was looked at."""

    server: str
    address: str | None


class ManagedTunnel:
    """`control` is what the agent and its Envoy speak to beside the tunnel; `on_resolvers` hears whose resolvers are to be used."""

    def __init__(
        self,
        exit_: ExitSettings,
        control: Iterable[Endpoint],
        folder: Path,
        board: StatusBoard,
        on_resolvers: OnResolvers,
        pace: RetryPace = DEFAULT_PACE,
    ) -> None:
        self._exit = exit_
        self._board = board
        self._on_resolvers = on_resolvers
        self.kill_switch = KillSwitch(exit_, control)
        self.supervisor: TunnelSupervisor | None = None
        """None for a tunnel that somebody else brings up."""
        self.active = ActiveInterface(exit_.tunnel_interface, exit_.resolvers)
        self._line: ActiveTunnel | None = None
        """The tunnel that carries clients, or did last."""
        self._probe = ResolverProbe(self.active, pace.resolver_s)
        self._connections = ConnectionPinning()
        self._begun = False
        if exit_.servers:
            assert exit_.tunnel_interface is not None
            self._slots = slots_of(exit_.tunnel_interface)
            drivers = [driver_of(each).make(each, folder, self.kill_switch.resolve) for each in exit_.servers]
            self.supervisor = TunnelSupervisor(drivers, self._slots, board, self._carry, pace)

    async def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Close the kill switch, then bring the tunnel up. Raises ExitplaneError, before anything is started."""
        require_for(self._exit)
        if self.supervisor is not None:
            for slot in self._slots:
                await policy_routing.remove_interface(slot.interface)  # what a killed agent left
        self._begun = True
        await self.kill_switch.admit()
        if self.supervisor is not None:
            await self._connections.forget()
            tasks.create_task(self.supervisor.run(), name="tunnel's keeper")
        tasks.create_task(self.kill_switch.run(), name="kill switch")

    def checks(self) -> list[HealthProbe]:
        """What is watched: the keeper's own knowledge, what the exit's settings ask for, and a resolver that answers."""
        if self.supervisor is None:
            return checks_of(self._exit)
        own = checks_of(self._exit, lambda: self.active.interface)
        return [HealthProbe(self.supervisor.look), *own, HealthProbe(self._probe, RESOLVER_PATIENCE)]

    async def rotate(self) -> str:
        """Take another server in place of the present one; gives its name. Raises TunnelFailed for somebody else's tunnel."""
        if self.supervisor is None:
            raise TunnelFailed("the tunnel is not the agent's to change", hint="ask whoever brings it up")
        return await self.supervisor.rotate()

    @property
    def can_rotate_seamlessly(self) -> bool:
        """Whether another server can be tried while the present one carries clients."""
        return self.supervisor is not None and self.supervisor.can_rotate_seamlessly

    async def rotate_seamlessly(self, country: str | None, look: Look | None, drain: Drain) -> RotationResult:
        """Take another server once it is verified; the one before carries clients until then. Raises ExitplaneError.

        `country` (ISO 3166-1 alpha-2, in lower case) is where it has to come out, None: anywhere that is known.
        What began by the old one ends by it, or with `drain`. Other resolvers take another Envoy: then `drain` comes first, while
        the exit takes no new requests. If anything goes wrong, nothing is changed.
        """
        assert self.supervisor is not None
        seen, drained = None, False

        async def prepare(line: ActiveTunnel, slot: InterfaceSlot) -> None:
            nonlocal seen, drained
            resolvers = self._resolvers_of(line)
            seen = await verify(with_tunnel(self._exit, slot.interface, resolvers), country, look)
            if resolvers != self.active.resolvers:
                self._board.update(resting="it takes another server")
                await drain()
                drained = True

        async def clear() -> None:
            if not drained:
                await drain()
            await self._leave_others()

        try:
            server = await self.supervisor.rotate_seamlessly(prepare, clear)
        finally:
            self._board.update(resting="")
            await self._leave_others()
        return RotationResult(server, seen.address if seen else None)

    async def end(self) -> None:
        """Take the tunnel down. The kill switch stays closed: what still runs in this namespace must not get out."""
        if not self._begun:
            return
        if self.supervisor is not None:
            await self.supervisor.stop()
            await self._connections.forget()
            try:
                await policy_routing.remove(self._slots)
            except CommandFailed as error:
                log.warning("tunnel.routes_left", reason=str(error))
        if self._exit.kill_switch:
            log.info("kill_switch.stays", hint="`exitplane agent --open-kill-switch` opens it")

    async def _carry(self, line: ActiveTunnel, slot: InterfaceSlot) -> None:
        """Have clients go by this tunnel, which is up. Raises TunnelFailed and CommandFailed."""
        resolvers = self._resolvers_of(line)
        if slot.interface == self.active.interface:
            await self._connections.begin(slot)
            await policy_routing.lead_into(slot.interface, line.networks)
            self.active.resolvers = resolvers
        else:
            async with self.active.lock:
                await self._hold_old(line)
                await self._connections.begin(slot, self._line)
                await policy_routing.lead_into(slot.interface, line.networks)
                self.active.interface, self.active.resolvers = slot.interface, resolvers
        self._line = line
        self._probe.reset()
        await self._on_resolvers(resolvers)

    async def _hold_old(self, new: ActiveTunnel) -> None:
        """What comes from the old tunnel's addresses goes by it, as long as it is there."""
        old = self._line
        for slot in self._slots:
            if old is not None and slot.interface == self.active.interface:
                await policy_routing.hold(slot, set(old.addresses) - set(new.addresses))

    async def _leave_others(self) -> None:
        """What began by a tunnel that carries clients no longer may go on no longer."""
        for slot in self._slots:
            if slot.interface != self.active.interface:
                await self._connections.leave(slot)
        try:
            await policy_routing.let_go()
        except CommandFailed as error:
            log.warning("tunnel.routes_left", reason=str(error))

    def _resolvers_of(self, line: ActiveTunnel) -> tuple[str, ...]:
        resolvers = self._exit.resolvers or line.resolvers
        if not resolvers:
            raise TunnelFailed(f"{line.server} names no resolver", hint="name one with --dns", slowly=True)
        return resolvers


async def open_kill_switch() -> None:
    """Remove the kill switch that an agent left in this namespace. Raises ExitplaneError."""
    require(NFT)
    await nftables.open_()
