"""The probes of an exit's tunnel, and the monitor that turns their results into the tunnel's state."""

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
from agent.egress.parent_proxy import probe_parent
from agent.gluetun.client import GluetunClient
from agent.gluetun.tunnel_state import check_gluetun
from agent.net.interfaces import bound_socket, check_interface
from model.endpoint import Endpoint

log = structlog.get_logger()

PERIOD_S: Final = 1.0
PROBE_TIMEOUT_S: Final = 1.0
NOT_WATCHED: Final = "not watched"

Probe: TypeAlias = Callable[[], Awaitable[str | None]]
"""Checks once, and returns what is wrong or None. The text stays the same while the cause does."""


@dataclass(slots=True)
class HealthProbe:
    """A probe with hysteresis: `patience` failures in a row make it fail, one success makes it succeed.

    It has failed until its first success (docs/architecture.md#fail-closed).
    """

    probe: Probe
    patience: int = 1
    failure: str | None = "not observed yet"
    _failures: int = 0

    async def check(self) -> str | None:
        """Probe once, and return what is wrong by now, or None."""
        found = await self.probe()
        self._failures = 0 if found is None else self._failures + 1
        if found is None or self.failure is not None or self._failures >= self.patience:
            self.failure = found
        return self.failure


class TunnelMonitor:
    """Keeper of the board's tunnel state, which is up while every probe succeeds."""

    def __init__(self, probes: Sequence[HealthProbe], board: StatusBoard, period_s: float) -> None:
        self._probes = probes
        self._board = board
        self._period_s = period_s

    async def run(self) -> None:
        """Check once a period until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            begun_s = loop.time()
            await self.observe()
            await asyncio.sleep(max(0.0, begun_s + self._period_s - loop.time()))

    async def observe(self) -> None:
        """Run the probes once, in order, up to the first that fails."""
        failure = None
        for probe in self._probes:
            failure = await probe.check()
            if failure is not None:
                break
        before = self._board.report
        if failure is None:
            self._board.update(tunnel=HealthState.UP, reason="" if self._probes else NOT_WATCHED)
        else:
            self._board.update(tunnel=HealthState.DOWN, reason=failure)
        after = self._board.report
        if (after.tunnel, after.reason) != (before.tunnel, before.reason):
            write = log.info if after.tunnel is HealthState.UP else log.warning
            write(f"tunnel.{after.tunnel}", reason=after.reason)


def probes_of(exit_: ExitSettings, current_interface: Callable[[], str | None] | None = None) -> list[HealthProbe]:
    """Return the probes of an exit: its interface, gluetun's state, its parent, and a target behind the tunnel.

    `current_interface` returns the tunnel's interface where that changes.
    """
    probes = []
    target, parent = exit_.probe, exit_.parent
    interface = current_interface or (lambda: exit_.tunnel_interface)
    if exit_.tunnel_interface is not None:
        probes.append(HealthProbe(lambda: check_interface(interface() or "")))
    if exit_.gluetun is not None:
        gluetun = GluetunClient(exit_.gluetun)
        probes.append(HealthProbe(lambda: check_gluetun(gluetun), patience=2))
    if parent is not None:
        probes.append(HealthProbe(lambda: probe_parent(parent, target), patience=2))
    elif target is not None:
        probes.append(HealthProbe(lambda: check_target(target, interface(), exit_.egress_address), patience=2))
    return probes


async def check_target(target: Endpoint, interface: str | None, source: str | None) -> str | None:
    """Connect to `target` (an IP address) by TCP, and return why that fails within a second, or None.

    The connection is bound to `interface` and `source` if they are given, as another route would prove nothing.
    """
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    try:
        with closing(bound_socket(interface, source, family)) as connection:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(connection, (target.host, target.port))
    except TimeoutError:
        return f"{target} does not answer through the tunnel"
    except OSError as error:
        return f"{target} cannot be reached through the tunnel ({_reason(error)})"
    return None


def _reason(error: OSError) -> str:
    # the text of asyncio's own error holds the address, and differs between event loops
    return os.strerror(error.errno) if error.errno else type(error).__name__
