"""Makes an exit's Envoy fail its health check while the tunnel is down or leaks, so that gateways leave it at once."""

from __future__ import annotations

import structlog

from agent.config.status import StatusBoard, wait
from agent.envoy.admin import Admin, AdminUnreachable
from agent.envoy.supervisor import EnvoySupervisor

log = structlog.get_logger()

_RETRY_S = 0.5
_AT_LATEST_S = 3600.0


class HealthCheck:
    """Tells each Envoy whether the exit is well; a new Envoy knows nothing of what the last one was told."""

    def __init__(self, supervisor: EnvoySupervisor, board: StatusBoard) -> None:
        self._supervisor = supervisor
        self._board = board
        self._told: tuple[Admin, bool] | None = None
        """Who was told last, and what."""

    async def run(self) -> None:
        """Follow the board until cancelled."""
        while True:
            changed = self._board.changed
            settled = await self.tell()
            await wait(changed, _AT_LATEST_S if settled else _RETRY_S)

    async def tell(self) -> bool:
        """Tell the Envoy that runs, unless it knows; gives whether nothing is left to do."""
        admin, well = self._supervisor.admin, self._board.report.is_serving
        if admin is None or self._told == (admin, well):
            return True
        try:
            if well:
                await admin.pass_health_check()
            else:
                await admin.fail_health_check()
        except AdminUnreachable as error:
            log.warning("envoy.health_not_set", well=well, reason=str(error))
            return False
        self._told = (admin, well)
        return True
