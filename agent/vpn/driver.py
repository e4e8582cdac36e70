"""What brings up one tunnel to one server, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agent.vpn.policy_routing import Network
from agent.vpn.slots import InterfaceSlot


@dataclass(frozen=True, slots=True)
class ActiveTunnel:
    """A tunnel that is up: its server's name, the resolvers (IP addresses) that belong to it, and what it may carry.

    `addresses` are its own, inside.
    """

    server: str
    resolvers: tuple[str, ...]
    networks: tuple[Network, ...] = ()
    addresses: tuple[str, ...] = ()


class TunnelDriver(Protocol):
    """A tunnel to one server, on whichever lane. Two drivers may be up at once, on different lanes."""

    @property
    def server(self) -> str:
        """What it is called towards people."""

    async def up(self, lane: InterfaceSlot) -> ActiveTunnel:
        """Bring it up, and see that the server answers: only what is bound to its interface goes by it as yet.

        Raises TunnelFailed, and leaves what `down` removes.
        """

    async def look(self) -> str | None:
        """What is wrong by now with a tunnel that carries clients, so that only a restart helps; None if nothing is."""

    async def down(self) -> None:
        """Remove whatever there is of it, and also nothing."""
