"""Whether a tunnel's resolvers answer through it."""

from __future__ import annotations

import time
from typing import Final

from agent.net import dns_probe
from agent.vpn.active_interface import ActiveInterface

RESOLVER_PATIENCE: Final = 3
_RESOLVER_WITHIN_S: Final = 1.0


class ResolverProbe:
    """Asks the tunnel's resolvers something now and then: without one that answers an exit is of no use.

    It also gives a server that died something to leave unanswered.
    """

    def __init__(self, course: ActiveInterface, every_s: float) -> None:
        self._course = course
        self._every_s = every_s
        self._again_s = 0.0
        self._turn = 0

    def forget(self) -> None:
        """What was heard through another tunnel says nothing of this one."""
        self._again_s = 0.0

    async def __call__(self) -> str | None:
        resolvers = self._course.resolvers
        if not resolvers or time.monotonic() < self._again_s:
            return None
        resolver = resolvers[self._turn % len(resolvers)]
        try:
            await dns_probe.ask(
                resolver, ".", dns_probe.NS, within_s=_RESOLVER_WITHIN_S, interface=self._course.interface
            )
        except dns_probe.DnsUnanswered:
            self._turn += 1
            return f"the resolver {resolver} does not answer through the tunnel"
        self._again_s = time.monotonic() + self._every_s
        return None
