"""The end of requests that an exit stopped answering, so that gateways retry them on another exit.

An exit that freezes, or whose host vanishes, closes no connection. Health checks notice it and new requests go elsewhere, but
Envoy has no timeout for a CONNECT that it sent just before, on a connection that was ready
(docs/decisions/0031-a-connection-for-each-tunnel.md).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import structlog

from agent.envoy.admin import AdminUnreachable
from agent.envoy.supervisor import EnvoySupervisor
from agent.net.ss import find_of_process, reset, ss

log = structlog.get_logger()

PERIOD_S: Final = 2.0
SILENT_S: Final = 10.0
"""Time without any answer, after the health checks have found an exit, after which its waiting connections end."""
_LAST_SENT: Final = re.compile(r"\blastsnd:(\d+)")
_LAST_RECEIVED: Final = re.compile(r"\blastrcv:(\d+)")
"""Milliseconds, which `ss` leaves out when they are 0."""


async def end_unanswered_requests(
    supervisor: EnvoySupervisor, *, period_s: float = PERIOD_S, silent_s: float = SILENT_S
) -> None:
    """Reset Envoy's connections to silent exits on which something was sent and not answered. Runs until cancelled.

    An exit that answers its checks, though with a failure, keeps its open tunnels. Without `CAP_NET_ADMIN` or `ss` it has no effect.
    """
    began_s: dict[str, float] = {}
    while True:
        await asyncio.sleep(period_s)
        with suppress(AdminUnreachable):
            silent = await supervisor.admin.list_silent_exits() if supervisor.admin else frozenset()
            now_s = time.monotonic()
            began_s = {each: began_s.get(each, now_s) for each in silent}
            for exit_, since_s in began_s.items():
                if now_s - since_s >= silent_s and supervisor.pid is not None:
                    await _reset_waiting(exit_, supervisor.pid, silent_s)


async def _reset_waiting(exit_: str, pid: int, silent_s: float) -> None:
    host, _, port = exit_.rpartition(":")
    for local, peer in find_waiting(await ss("-i", "-p", "-O", "dst", host, "dport", "=", f":{port}"), pid, silent_s):
        log.warning("exit.request_unanswered", exit=exit_, connection=local)
        await reset(local, peer)


def find_waiting(listing: str, pid: int, silent_s: float) -> Iterator[tuple[str, str]]:
    """Yield local and peer address of each connection of a process whose last bytes were sent, and not answered for as long.

    `listing` is the output of `ss -tnipO`. Other gateways on the host may have connections to the same exit.
    """
    for local, peer, line in find_of_process(listing, pid):
        sent_ms, received_ms = (_read_ms(each, line) for each in (_LAST_SENT, _LAST_RECEIVED))
        if received_ms >= silent_s * 1000 and sent_ms < received_ms:
            yield local, peer


def _read_ms(field: re.Pattern[str], line: str) -> int:
    found = field.search(line)
    return int(found[1]) if found else 0
