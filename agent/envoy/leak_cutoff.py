"""Ends what goes through an exit that leaks: at once, open tunnels too."""

from __future__ import annotations

import structlog

from agent.config.status import StatusBoard
from agent.envoy.supervisor import EnvoySupervisor

log = structlog.get_logger()


async def cut_when_leaking(board: StatusBoard, supervisor: EnvoySupervisor) -> None:
    """Until cancelled: whenever the exit begins to leak, end its Envoy, and every tunnel with it.

    The Envoy that is started then fails its health check as long as the leak lasts (agent/envoy/health_check.py).
    """
    leak = ""
    while True:
        changed = board.changed
        seen = board.report.observation
        before, leak = leak, seen.leak if seen is not None else ""
        if leak and not before:
            log.error("exit.leaks", reason=leak)
            await supervisor.cut()
        await changed.wait()
