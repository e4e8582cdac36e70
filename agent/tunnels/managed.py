"""All of an exit's tunnel and kill switch, as the agent's life needs it: to begin, to wait for, and to end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from agent.report import Board
from agent.settings import Exit
from agent.tunnel import Check, checks_of
from agent.tunnels import dns, nftables, routing
from agent.tunnels.commands import CommandFailed
from agent.tunnels.driver import Driver, Line
from agent.tunnels.errors import TunnelFailed
from agent.tunnels.guard import Guard
from agent.tunnels.keeping import Pace, TunnelKeeper
from agent.tunnels.openvpn import OpenVpn
from agent.tunnels.requirements import require
from agent.tunnels.servers import OpenVpnServer, Server, WireGuardServer
from agent.tunnels.wireguard import Resolve, WireGuard
from model.endpoint import Endpoint

log = structlog.get_logger()

RESOLVER_EVERY_S: Final = 3.0
_RESOLVER_WITHIN_S: Final = 1.0
_RESOLVER_PATIENCE: Final = 3

OnResolvers: TypeAlias = Callable[[tuple[str, ...]], Awaitable[None]]


class ManagedTunnel:
    """`control` is what the agent and its Envoy speak to beside the tunnel; `on_resolvers` hears whose resolvers are to be used."""

    def __init__(
        self, exit_: Exit, control: Iterable[Endpoint], folder: Path, board: Board, on_resolvers: OnResolvers
    ) -> None:
        self._exit = exit_
        self._on_resolvers = on_resolvers
        self.guard = Guard(exit_, control)
        self.keeper: TunnelKeeper | None = None
        """None for a tunnel that somebody else brings up."""
        self._resolvers = exit_.resolvers
        self._probe = ResolverProbe(lambda: self._resolvers, exit_.tunnel_interface)
        self._begun = False
        if exit_.servers:
            drivers = [driver_of(each, exit_, folder, self.guard.resolve) for each in exit_.servers]
            self.keeper = TunnelKeeper(drivers, board, self._hear, Pace())

    async def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Close the kill switch, then bring the tunnel up. Raises ExitplaneError, before anything is started."""
        require(programs(self._exit))
        if self.keeper is not None:
            assert self._exit.tunnel_interface is not None
            await routing.remove_interface(self._exit.tunnel_interface)  # what a killed agent left
        self._begun = True
        await self.guard.admit()
        if self.keeper is not None:
            tasks.create_task(self.keeper.run(), name="tunnel's keeper")
        tasks.create_task(self.guard.run(), name="kill switch")

    def checks(self) -> list[Check]:
        """What is watched: the keeper's own knowledge, what the exit's settings ask for, and a resolver that answers."""
        if self.keeper is None:
            return checks_of(self._exit)
        return [Check(self.keeper.look), *checks_of(self._exit), Check(self._probe, _RESOLVER_PATIENCE)]

    async def rotate(self) -> str:
        """Take another server; gives its name. Raises TunnelFailed for a tunnel that is somebody else's."""
        if self.keeper is None:
            raise TunnelFailed("the tunnel is not the agent's to change", mend="ask whoever brings it up")
        return await self.keeper.rotate()

    async def end(self) -> None:
        """Take the tunnel down. The kill switch stays closed: what still runs in this namespace must not get out."""
        if not self._begun:
            return
        if self.keeper is not None:
            await self.keeper.stop()
            try:
                await routing.remove()
            except CommandFailed as error:
                log.warning("tunnel.routes_left", reason=str(error))
        if self._exit.kill_switch:
            log.info("kill_switch.stays", mend="`exitplane agent --open-kill-switch` opens it")

    async def _hear(self, line: Line) -> None:
        resolvers = self._exit.resolvers or line.resolvers
        if not resolvers:
            raise TunnelFailed(f"{line.server} names no resolver", mend="name one with --dns", slowly=True)
        self._resolvers = resolvers
        self._probe.forget()
        await self._on_resolvers(resolvers)


class ResolverProbe:
    """Asks the tunnel's resolvers something now and then: without one that answers an exit is of no use.

    It also gives a server that died something to leave unanswered.
    """

    def __init__(
        self, resolvers: Callable[[], tuple[str, ...]], interface: str | None, every_s: float = RESOLVER_EVERY_S
    ) -> None:
        self._resolvers = resolvers
        self._interface = interface
        self._every_s = every_s
        self._again_s = 0.0
        self._turn = 0

    def forget(self) -> None:
        """What was heard through another tunnel says nothing of this one."""
        self._again_s = 0.0

    async def __call__(self) -> str | None:
        resolvers = self._resolvers()
        if not resolvers or time.monotonic() < self._again_s:
            return None
        resolver = resolvers[self._turn % len(resolvers)]
        try:
            await dns.ask(resolver, ".", dns.NS, within_s=_RESOLVER_WITHIN_S, interface=self._interface)
        except dns.Unanswered:
            self._turn += 1
            return f"the resolver {resolver} does not answer through the tunnel"
        self._again_s = time.monotonic() + self._every_s
        return None


def driver_of(server: Server, exit_: Exit, folder: Path, resolve: Resolve) -> Driver:
    """What brings up the tunnel to a server."""
    assert exit_.tunnel_interface is not None
    match server:
        case WireGuardServer(file):
            return WireGuard(file, exit_.tunnel_interface, folder, resolve)
        case OpenVpnServer(file, remote, credentials):
            return OpenVpn(file, remote, credentials, exit_.tunnel_interface, folder, resolve)


def programs(exit_: Exit) -> Iterator[str]:
    """What has to be installed."""
    if exit_.kill_switch:
        yield "nft"
    if exit_.servers:
        yield "ip"
    if any(isinstance(each, WireGuardServer) for each in exit_.servers):
        yield "wg"
    if any(isinstance(each, OpenVpnServer) for each in exit_.servers):
        yield "openvpn"


async def open_kill_switch() -> None:
    """Remove the kill switch that an agent left in this namespace. Raises ExitplaneError."""
    require(["nft"])
    await nftables.open_()
