"""How clients' traffic goes now: by which interface, and whose resolvers know the names."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from agent.config.settings import ExitSettings


@dataclass(slots=True)
class ActiveInterface:
    """`interface` is None without one, as is the case beside a parent proxy. It is changed while `still` is held.

    `resolvers` (IP addresses) are the tunnel's; there may be none. Who looks at several things that have to fit together
    holds `still` meanwhile.
    """

    interface: str | None
    resolvers: tuple[str, ...] = ()
    still: asyncio.Lock = field(default_factory=asyncio.Lock)

    def of(self, exit_: ExitSettings) -> ExitSettings:
        """The exit as it is now."""
        return replace(exit_, tunnel_interface=self.interface, resolvers=self.resolvers)
