"""The status of an agent's tunnel and Envoy, and the board that publishes it to the agent's tasks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any


class HealthState(StrEnum):
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Observation:
    """The address at which the tunnel's traffic comes out. `country` is ISO 3166-1 alpha-2, in lower case.

    `error` is why nothing is known, `conflict` what sources report differently, and `leak` what leaves outside the tunnel.
    `resolver` is the address that resolves the exit's names. `rtt_ms` is rounded, so that noise is no change. Speeds are in Mbit/s,
    None before the first measurement.
    """

    address: str | None = None
    country: str | None = None
    city: str | None = None
    network: str | None = None
    time_zone: str | None = None
    error: str = ""
    conflict: str = ""
    leak: str = ""
    address_v6: str | None = None
    resolver: str | None = None
    previous_address: str | None = None
    changed_at: datetime | None = None
    """The time at which the address replaced the previous one."""
    rtt_ms: float | None = None
    download_mbps: float | None = None
    upload_mbps: float | None = None
    speed_measured_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """The state of the tunnel and of Envoy, both of them down until they are seen to be up.

    `reason` is why the tunnel is down, or how it is known to be up. `starts` counts the Envoys that were started. `observation` is None
    if no source is asked where the traffic comes out.
    """

    tunnel: HealthState = HealthState.DOWN
    reason: str = "not observed yet"
    envoy: HealthState = HealthState.DOWN
    starts: int = 0
    observation: Observation | None = None
    orders_settled: int = 0
    """The number of orders that were carried out or failed."""
    exits_removed: int = 0
    """The number of times that an exit was removed from a gateway's configuration."""
    network_changes: int = 0
    """The number of times that links, addresses or routes changed."""
    paused: str = ""
    """The reason why the exit accepts no requests although it could; empty if it accepts them."""

    @property
    def is_serving(self) -> bool:
        """True if an exit may carry requests."""
        leaks = self.observation is not None and bool(self.observation.leak)
        return self.tunnel is HealthState.UP and not leaks and not self.paused


class StatusBoard:
    """The current status. Tasks of one event loop update it and wait for changes."""

    def __init__(self) -> None:
        self.report = AgentStatus()
        self._changed = asyncio.Event()

    @property
    def changed(self) -> asyncio.Event:
        """An event that the next change sets. Take it before you read the report, and you miss no change."""
        return self._changed

    def update(self, **changes: Any) -> None:
        """Replace fields of the report. Waiters are woken only if a value differs."""
        report = replace(self.report, **changes)
        if report == self.report:
            return
        self.report = report
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


async def wait(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for an event for up to `timeout_s`. Return True if it is set."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
