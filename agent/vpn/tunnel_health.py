"""Watching an exit's tunnel: its interface and, through it, a target that answers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog

from agent.config.settings import ExitSettings
from agent.config.status import HealthState, StatusBoard
from agent.egress.parent_proxy import parent_trouble
from agent.gluetun.client import GluetunClient
from agent.gluetun.tunnel_state import check_gluetun
from agent.net.interfaces import bound_socket, check_interface
from model.endpoint import Endpoint

log = structlog.get_logger()

PERIOD_S: Final = 1.0
PROBE_TIMEOUT_S: Final = 1.0
NOT_WATCHED: Final = "not watched"

Probe: TypeAlias = Callable[[], Awaitable[str | None]]
"""Looks once; gives what is wrong, in words that stay the same while it is, or None."""


@dataclass(slots=True)
class HealthProbe:
    """A probe and its record: `patience` failures in a row are a failure, one success ends it.

    Nothing is taken for good before it was seen to be (docs/architecture.md#fail-closed).
    """

    probe: Probe
    patience: int = 1
    trouble: str | None = "not observed yet"
    _failures: int = 0

    async def look(self) -> str | None:
        """Probe once; gives what is wrong by now."""
        found = await self.probe()
        self._failures = 0 if found is None else self._failures + 1
        if found is None or self.trouble is not None or self._failures >= self.patience:
            self.trouble = found
        return self.trouble


class TunnelMonitor:
    """Keeps the board's tunnel state: up while every check is content."""

    def __init__(self, checks: Sequence[HealthProbe], board: StatusBoard, period_s: float) -> None:
        self._checks = checks
        self._board = board
        self._period_s = period_s

    async def run(self) -> None:
        """Look once a period until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            begun_s = loop.time()
            await self.observe()
            await asyncio.sleep(max(0.0, begun_s + self._period_s - loop.time()))

    async def observe(self) -> None:
        """Look once, in order; a check that fails spares those after it."""
        trouble = None
        for check in self._checks:
            trouble = await check.look()
            if trouble is not None:
                break
        before = self._board.report
        if trouble is None:
            self._board.update(tunnel=HealthState.UP, reason="" if self._checks else NOT_WATCHED)
        else:
            self._board.update(tunnel=HealthState.DOWN, reason=trouble)
        after = self._board.report
        if (after.tunnel, after.reason) != (before.tunnel, before.reason):
            tell = log.info if after.tunnel is HealthState.UP else log.warning
            tell(f"tunnel.{after.tunnel}", reason=after.reason)


def checks_of(exit_: ExitSettings, by: Callable[[], str | None] | None = None) -> list[HealthProbe]:
    """What is watched of an exit: its interface, what gluetun says, its parent, and whether a target answers through it.

    `by` tells which interface is the tunnel's now, where that changes.
    """
    checks = []
    target, parent = exit_.probe, exit_.parent
    interface = by or (lambda: exit_.tunnel_interface)
    if exit_.tunnel_interface is not None:
        checks.append(HealthProbe(lambda: check_interface(interface() or "")))
    if exit_.gluetun is not None:
        gluetun = GluetunClient(exit_.gluetun)
        checks.append(HealthProbe(lambda: check_gluetun(gluetun), patience=2))
    if parent is not None:
        checks.append(HealthProbe(lambda: parent_trouble(parent, target), patience=2))
    elif target is not None:
        checks.append(HealthProbe(lambda: check_target(target, interface(), exit_.egress_address), patience=2))
    return checks


async def check_target(target: Endpoint, interface: str | None, source: str | None) -> str | None:
    """What keeps a TCP connection to `target` (an IP address) from being made within a second.

    It leaves by `interface` and from `source`, when they are given: another way out would prove nothing.
    """
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    try:
        with closing(bound_socket(interface, source, family)) as dialled:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(dialled, (target.host, target.port))
    except TimeoutError:
        return f"{target} does not answer through the tunnel"
    except OSError as error:
        return f"{target} cannot be reached through the tunnel ({_words(error)})"
    return None


def _words(error: OSError) -> str:
    # what the event loop raises for a failed connection carries the address in its text, and differs between loops
    return os.strerror(error.errno) if error.errno else type(error).__name__
