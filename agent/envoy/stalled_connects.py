"""The end of CONNECTs that a parent proxy never answers, so that gateways retry on another exit.

Envoy has no timeout for them: a CONNECT is complete when its tunnel ends, and the existing timeouts would end idle tunnels too
(docs/decisions/0021-a-parent-is-beside-its-exit.md). Without this, requests to a silent parent last until their clients give up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import structlog

from agent.config.status import HealthState, StatusBoard, wait
from agent.envoy.supervisor import EnvoySupervisor
from agent.net.ss import ss
from model.endpoint import Endpoint

log = structlog.get_logger()

PERIOD_S: Final = 1.0
_PID: Final = re.compile(r"pid=(\d+)")
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
                await ss("-K", "src", local, "dst", peer)
        await wait(changed, PERIOD_S)


def find_stalled(listing: str, pid: int) -> Iterator[tuple[str, str]]:
    """Yield local and peer address of each connection of a process without received bytes, from `ss -tnipO state established`."""
    for line in listing.splitlines():
        columns = line.split()
        if len(columns) > 4 and _RECEIVED not in line and str(pid) in _PID.findall(line):
            yield columns[2], columns[3]
