"""The wanted number of a pool's containers, and the pause after failures: pure functions of load and failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from model.stored_containers import ContainerSettings

BUSY_FOR: Final = timedelta(seconds=30)
"""The time that the load must be too high before a container is added."""
IDLE_FOR: Final = timedelta(minutes=5)
"""The time that one container fewer must have been enough before one is removed."""
IDLE_SHARE: Final = 0.5
"""One container fewer is enough when the load of the others would be at most this part of `requests_per_exit`."""
BACKOFF_MAX: Final = timedelta(seconds=60)
_DOUBLINGS_MAX: Final = 6


@dataclass(frozen=True, slots=True)
class PoolScale:
    """The memory of a pool: the wanted number of containers, and since when that number is too low or too high.

    `failures` counts the runs in a row that found dead containers; none is created before `retry_at`.
    """

    wanted: int = 0
    busy_since: datetime | None = None
    idle_since: datetime | None = None
    failures: int = 0
    retry_at: datetime | None = None


def scale_to_load(
    settings: ContainerSettings, loads: Sequence[int], taken_out: int, scale: PoolScale, now: datetime
) -> PoolScale:
    """Adapt the wanted number to the open requests of each serving exit, within the pool's bounds.

    `taken_out` counts the exits that operators took out. While fewer exits serve than should, the load says nothing: the
    missing ones will take their part.
    """
    wanted = min(max(scale.wanted, settings.minimum), settings.maximum)
    if settings.requests_per_exit is None:
        return replace(scale, wanted=settings.minimum, busy_since=None, idle_since=None)
    limit, load = settings.requests_per_exit, sum(loads)
    complete = len(loads) >= max(wanted - taken_out, 1)
    busy = complete and wanted < settings.maximum and load > limit * len(loads)
    idle = complete and wanted > settings.minimum and load < limit * IDLE_SHARE * max(len(loads) - 1, 0)
    busy_since = (scale.busy_since or now) if busy else None
    idle_since = (scale.idle_since or now) if idle else None
    if busy_since is not None and now - busy_since >= BUSY_FOR:
        return replace(scale, wanted=wanted + 1, busy_since=None, idle_since=None)
    if idle_since is not None and now - idle_since >= IDLE_FOR:
        return replace(scale, wanted=wanted - 1, busy_since=None, idle_since=None)
    return replace(scale, wanted=wanted, busy_since=busy_since, idle_since=idle_since)


def back_off(scale: PoolScale, now: datetime) -> PoolScale:
    """Count a failure, and pause after it: 1 s, 2 s, 4 s and so on up to 60 s."""
    pause = min(timedelta(seconds=2 ** min(scale.failures, _DOUBLINGS_MAX)), BACKOFF_MAX)
    return replace(scale, failures=scale.failures + 1, retry_at=now + pause)
