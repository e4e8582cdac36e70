"""What an exit's Envoy carries, as it says itself."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from agent.envoy.admin import AdminSilent
from agent.envoy.supervisor import Supervisor


class Measured(NamedTuple):
    """Requests and tunnels that are open, and bytes to and from targets since Envoy was started."""

    open_requests: int = 0
    carried_bytes: int = 0


class Load:
    """Asks the Envoy that runs; while none answers, the last word holds."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._last = Measured()

    async def measure(self) -> Measured:
        """What it carries now."""
        admin = self._supervisor.admin
        if admin is not None:
            with suppress(AdminSilent):
                self._last = Measured(*await admin.measure())
        return self._last
