"""The interface and the resolvers that clients' traffic uses now."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from agent.config.settings import ExitSettings


@dataclass(slots=True)
class ActiveInterface:
    """The tunnel's interface, None if there is none, and its resolvers (IP addresses), if it has any.

    `lock` is held while the interface changes. Hold it to read several things that have to fit together.
    """

    interface: str | None
    resolvers: tuple[str, ...] = ()
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def of(self, exit_: ExitSettings) -> ExitSettings:
        """Return the exit's settings with this interface and these resolvers."""
        return replace(exit_, tunnel_interface=self.interface, resolvers=self.resolvers)
