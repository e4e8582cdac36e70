"""Ends what a parent proxy leaves unanswered, so that gateways ask another exit.

Envoy bounds no such time: a CONNECT is not complete before its tunnel ends, and every timeout that there is would end idle tunnels
too (docs/decisions/0021-a-parent-is-beside-its-exit.md). So a parent that takes connections and says nothing would hold
requests until their clients give up.
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

EVERY_S: Final = 1.0
_OWNER: Final = re.compile(r"pid=(\d+)")
_HEARD: Final = "bytes_received:"
"""`ss` shows it of connections by which something came."""


async def end_unanswered(parent: Endpoint, board: StatusBoard, supervisor: EnvoySupervisor) -> None:
    """Until cancelled: while the tunnel is down, end the connections of the exit's Envoy on which the parent never said a word.

    Envoy takes it for the exit's failure, and the gateway tries another. What was answered goes on. It takes `CAP_NET_ADMIN`; where
    that or `ss` is missing, such requests wait as before.
    """
    while True:
        changed = board.changed
        if board.report.tunnel is HealthState.UP:
            await changed.wait()
            continue
        if supervisor.pid is not None:
            for local, peer in unheard(await ss("-i", "-p", "-O", *_to(parent.port)), supervisor.pid):
                log.warning("parent.unanswered", parent=str(parent), connection=local)
                await ss("-K", "src", local, "dst", peer)
        await wait(changed, EVERY_S)


def unheard(listed: str, pid: int) -> Iterator[tuple[str, str]]:
    """Both ends (`address:port`) of each connection of a process by which nothing came, of `ss -tnipO state established`."""
    for line in listed.splitlines():
        columns = line.split()
        if len(columns) > 4 and _HEARD not in line and str(pid) in _OWNER.findall(line):
            yield columns[2], columns[3]


def _to(port: int) -> tuple[str, ...]:
    return ("dport", "=", f":{port}")
