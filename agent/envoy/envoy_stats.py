"""The load of an exit, read from its Envoy's statistics."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from agent.envoy.admin import AdminUnreachable
from agent.envoy.supervisor import EnvoySupervisor


class LoadSample(NamedTuple):
    """The number of open requests and tunnels, and the bytes to and from targets since Envoy started."""

    open_requests: int = 0
    carried_bytes: int = 0


class LoadReader:
    """Reads the load of the running Envoy, and repeats the last sample while none answers."""

    def __init__(self, supervisor: EnvoySupervisor) -> None:
        self._supervisor = supervisor
        self._last = LoadSample()

    async def read(self) -> LoadSample:
        """Return the current load, or the last one."""
        admin = self._supervisor.admin
        if admin is not None:
            with suppress(AdminUnreachable):
                self._last = LoadSample(*await admin.read_load())
        return self._last
