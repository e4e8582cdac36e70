"""What an agent knows of its tunnel and its Envoy: one value, and a word to whoever waits for a new one."""

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
    """Where traffic comes out that goes through the tunnel. `country` is ISO 3166-1 alpha-2, in lower case.

    `trouble` says why nothing is known, `disagreement` what sources say differently, and `leak` what leaves outside the tunnel.
    `resolver` is who was seen to ask for names. `rtt_ms` is rounded, so that noise is no news. Without a measurement there is no
    speed, in Mbit/s.
    """

    address: str | None = None
    country: str | None = None
    city: str | None = None
    network: str | None = None
    time_zone: str | None = None
    trouble: str = ""
    disagreement: str = ""
    leak: str = ""
    address_v6: str | None = None
    resolver: str | None = None
    previous_address: str | None = None
    changed_at: datetime | None = None
    """When the address changed from the previous one."""
    rtt_ms: float | None = None
    download_mbps: float | None = None
    upload_mbps: float | None = None
    speed_measured_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """How the tunnel and Envoy stand. Both are down until they were seen to be up.

    `reason` says why the tunnel is down, or how it is known to be up. `starts` counts the Envoys that were started. Without an
    `observation` nobody looks where the traffic comes out.
    """

    tunnel: HealthState = HealthState.DOWN
    reason: str = "not observed yet"
    envoy: HealthState = HealthState.DOWN
    starts: int = 0
    observation: Observation | None = None
    settled: int = 0
    """How many orders something came of, so far."""
    gone: int = 0
    """How often exits left what a gateway was given, so far."""
    network_changes: int = 0
    """How often links, addresses or routes changed, so far."""
    resting: str = ""
    """Why the exit takes no requests now though it could, if so."""

    @property
    def well(self) -> bool:
        """Whether an exit may carry requests."""
        leaks = self.observation is not None and bool(self.observation.leak)
        return self.tunnel is HealthState.UP and not leaks and not self.resting


class StatusBoard:
    """The one place where the current Report hangs. Tasks of one loop write to it and wait at it."""

    def __init__(self) -> None:
        self.report = AgentStatus()
        self._changed = asyncio.Event()

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change. Take it before reading the report, and no change is missed."""
        return self._changed

    def update(self, **changes: Any) -> None:
        """Put up a report with other fields; nobody is woken when it says the same."""
        report = replace(self.report, **changes)
        if report == self.report:
            return
        self.report = report
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


async def wait(event: asyncio.Event, at_most_s: float) -> bool:
    """Wait for an event, but not longer; gives whether it came."""
    try:
        async with asyncio.timeout(at_most_s):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
