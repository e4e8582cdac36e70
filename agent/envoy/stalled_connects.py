"""The end of CONNECTs that a parent proxy never answers, so that gateways retry on another exit.

Envoy has no timeout for them: a CONNECT is complete when its tunnel ends, and the existing timeouts would end idle tunnels too
(docs/decisions/0021-a-parent-is-beside-its-exit.md). Without this, requests to a silent parent last until their clients give up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import structlog

from agent.config.status import HealthState, StatusBoard, wait
from agent.envoy.supervisor import EnvoySupervisor
from agent.net.ss import find_of_process, reset, ss
from model.endpoint import Endpoint

log = structlog.get_logger()

PERIOD_S: Final = 1.0
_RECEIVED: Final = "bytes_received:"
"""The field that `ss` shows for connections with received bytes."""


async def end_stalled_connects(parent: Endpoint, board: StatusBoard, supervisor: EnvoySupervisor) -> None:
    """While the tunnel is down, reset Envoy's connections to the parent that received no byte. Runs until cancelled.

    The gateway sees a failure of the exit and retries on another. Answered connections continue. Without `CAP_NET_ADMIN` or `ss` it
    has no effect.
    """
    while True:
        changed = board.changed
        if board.report.tunnel is HealthState.UP:
            await changed.wait()
            continue
        if supervisor.pid is not None:
            for local, peer in find_stalled(
                await ss("-i", "-p", "-O", "dport", "=", f":{parent.port}"), supervisor.pid
            ):
                log.warning("parent.connect_stalled", parent=str(parent), connection=local)
                await reset(local, peer)
        await wait(changed, PERIOD_S)


def find_stalled(listing: str, pid: int) -> Iterator[tuple[str, str]]:
    """Yield local and peer address of each connection of a process without received bytes, from `ss -tnipO state established`."""
    for local, peer, line in find_of_process(listing, pid):
        if _RECEIVED not in line:
            yield local, peer
