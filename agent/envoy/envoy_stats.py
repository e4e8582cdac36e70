"""What an exit's Envoy carries, as it says itself."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from agent.envoy.admin import AdminUnreachable
from agent.envoy.supervisor import EnvoySupervisor


class LoadSample(NamedTuple):
    """Requests and tunnels that are open, and bytes to and from targets since Envoy was started."""

    open_requests: int = 0
    carried_bytes: int = 0


class LoadReader:
    """Asks the Envoy that runs; while none answers, the last word holds."""

    def __init__(self, supervisor: EnvoySupervisor) -> None:
        self._supervisor = supervisor
        self._last = LoadSample()

    async def measure(self) -> LoadSample:
        """What it carries now."""
        admin = self._supervisor.admin
        if admin is not None:
            with suppress(AdminUnreachable):
                self._last = LoadSample(*await admin.measure())
        return self._last
