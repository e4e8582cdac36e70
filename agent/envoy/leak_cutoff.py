"""The cut-off of a leaking exit, which ends its traffic at once, open tunnels included."""

from __future__ import annotations

import structlog

from agent.config.status import StatusBoard
from agent.envoy.supervisor import EnvoySupervisor

log = structlog.get_logger()


async def cut_when_leaking(board: StatusBoard, supervisor: EnvoySupervisor) -> None:
    """Kill Envoy, and all its tunnels, whenever the exit begins to leak. Runs until cancelled.

    The next Envoy fails its health check while the leak lasts (agent/envoy/health_check.py).
    """
    leak = ""
    while True:
        changed = board.changed
        observation = board.report.observation
        before, leak = leak, observation.leak if observation is not None else ""
        if leak and not before:
            log.error("exit.leaking", reason=leak)
            await supervisor.cut()
        await changed.wait()
