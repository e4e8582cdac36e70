"""The probe of a tunnel's resolvers."""

from __future__ import annotations

import time
from typing import Final

from agent.net import dns_client
from agent.net.active_interface import ActiveInterface
from model.endpoint import Endpoint

RESOLVER_PATIENCE: Final = 3
"""Failures in a row after which the tunnel counts as down."""
_ANSWER_WITHIN_S: Final = 1.0


class ResolverProbe:
    """A probe that asks the tunnel's resolvers a question every `every_s` seconds: an exit without a resolver is of no use.

    The questions also give a server that died something to leave unanswered.
    """

    def __init__(self, active: ActiveInterface, every_s: float) -> None:
        self._active = active
        self._every_s = every_s
        self._next_at_s = 0.0
        self._failures = 0

    def reset(self) -> None:
        """Ask at the next call: an answer through another tunnel proves nothing about this one."""
        self._next_at_s = 0.0

    async def __call__(self) -> str | None:
        resolvers = self._active.resolvers
        if not resolvers or time.monotonic() < self._next_at_s:
            return None
        resolver = resolvers[self._failures % len(resolvers)]
        if not await resolver_answers(resolver, self._active.interface):
            self._failures += 1
            return unanswered(resolver)
        self._next_at_s = time.monotonic() + self._every_s
        return None


async def resolver_answers(resolver: str, interface: str | None) -> bool:
    """Return True if a resolver (an IP address) answers through the interface, be it with an error."""
    server = Endpoint(resolver, dns_client.PORT)
    try:
        await dns_client.query(".", dns_client.NS, server, interface=interface, waits_s=(_ANSWER_WITHIN_S,))
    except dns_client.DnsError:
        return False
    return True


def unanswered(resolver: str) -> str:
    """Return the reason of a tunnel whose resolver is silent."""
    return f"the resolver {resolver} does not answer through the tunnel"
