"""The protocol of tunnel drivers, and the description that each driver gives of itself."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol, TypeAlias

from agent.config.credentials import Credentials
from agent.config.settings import TunnelServer
from agent.vpn.policy_routing import Network
from agent.vpn.slots import InterfaceSlot

Resolve: TypeAlias = Callable[[str], Awaitable[tuple[str, ...]]]
"""Gives the addresses of a host. Raises UnknownHost."""


@dataclass(frozen=True, slots=True)
class ActiveTunnel:
    """A tunnel that is up: its server's name, the resolvers (IP addresses) behind it, and the networks that it carries.

    `addresses` are its own, inside.
    """

    server: str
    resolvers: tuple[str, ...]
    networks: tuple[Network, ...] = ()
    addresses: tuple[str, ...] = ()


class TunnelDriver(Protocol):
    """A tunnel to one server, in either slot. Two drivers may be up at once, in different slots."""

    @property
    def server(self) -> str:
        """The server's name for people."""

    async def up(self, slot: InterfaceSlot) -> ActiveTunnel:
        """Bring the tunnel up, and return once the server answers.

        Only what is bound to the slot's interface goes through it yet. Raises TunnelFailed; `down` removes what is left then.
        """

    async def check(self) -> str | None:
        """Return what is wrong with a tunnel that is up and only a restart repairs, or None."""

    async def down(self) -> None:
        """Remove all of the tunnel, also after a failed `up` or none."""


class Capability(IntEnum):
    """Linux capabilities that tunnels need (capabilities(7)), by their bits in CapEff."""

    NET_ADMIN = 12


@dataclass(frozen=True, slots=True)
class DriverSpec:
    """A driver's description of itself: all that the rest of the agent has to know of it.

    `file_format` is the program that its files are written for. A file belongs to the driver if its name ends in `extension`, else
    if `pattern` is found in its text. `programs` maps each program that must be installed to the Debian package that holds it.
    `resolver_setting` is the line of a file that names a resolver, shown in an error when it is missing; None if a server may push its resolver.
    """

    name: str
    file_format: str
    pattern: re.Pattern[str]
    programs: Mapping[str, str]
    parse: Callable[[str, str, Credentials | None], Sequence[TunnelServer]]
    """Takes a file's text, its name and the credentials of `--tunnel-credentials`. Raises BadTunnelFile."""
    make: Callable[[TunnelServer, Path, Resolve], TunnelDriver]
    """Takes a server that `parse` gave, and the folder for sockets and logs."""
    extension: str | None = None
    link_kinds: frozenset[str] = frozenset({"tun"})
    """Kinds of the interfaces that it makes (ip-link(8)). An interface of any other kind is never removed."""
    resolver_setting: str | None = None
    capabilities: frozenset[Capability] = frozenset({Capability.NET_ADMIN})
