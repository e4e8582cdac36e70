"""The health check of an exit's Envoy, which fails while the tunnel is down or leaks, so that gateways stop using it at once."""

from __future__ import annotations

import structlog

from agent.config.status import StatusBoard, wait
from agent.envoy.admin import Admin, AdminUnreachable
from agent.envoy.supervisor import EnvoySupervisor

log = structlog.get_logger()

_RETRY_S = 0.5
_IDLE_S = 3600.0


class HealthCheck:
    """Sets the health of the running Envoy from the board. A new Envoy starts healthy, so it is set again."""

    def __init__(self, supervisor: EnvoySupervisor, board: StatusBoard) -> None:
        self._supervisor = supervisor
        self._board = board
        self._applied: tuple[Admin, bool] | None = None
        """The Envoy whose health was set last, and the value."""

    async def run(self) -> None:
        """Follow the board until cancelled."""
        while True:
            changed = self._board.changed
            applied = await self.apply()
            await wait(changed, _IDLE_S if applied else _RETRY_S)

    async def apply(self) -> bool:
        """Set the health of the running Envoy if it differs; return False if Envoy could not be reached."""
        admin, well = self._supervisor.admin, self._board.report.is_serving
        if admin is None or self._applied == (admin, well):
            return True
        try:
            if well:
                await admin.pass_health_check()
            else:
                await admin.fail_health_check()
        except AdminUnreachable as error:
            log.warning("envoy.health_not_set", well=well, reason=str(error))
            return False
        self._applied = (admin, well)
        return True
