"""How many containers a pool should have, and when to try again: a pure function of load and failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from model.stored_containers import ContainerSettings

BUSY_FOR: Final = timedelta(seconds=30)
"""How long exits must have too much to do until there is one more."""
IDLE_FOR: Final = timedelta(minutes=5)
"""How long one fewer must have been enough until there is one fewer."""
IDLE_SHARE: Final = 0.5
"""One fewer is enough when each of the others would have this part, at most, of what it may have."""
BACKOFF_MAX: Final = timedelta(seconds=60)
_DOUBLINGS_MAX: Final = 6


@dataclass(frozen=True, slots=True)
class PoolScale:
    """What is remembered of a pool: how many containers it should have, and since when that seems too few or too many.

    `failures` counts the looks in a row that found containers dead; none is made before `retry_at`.
    """

    wanted: int = 0
    busy_since: datetime | None = None
    idle_since: datetime | None = None
    failures: int = 0
    retry_at: datetime | None = None


def scale_to_load(
    wish: ContainerSettings, loads: Sequence[int], out: int, scale: PoolScale, now: datetime
) -> PoolScale:
    """The scale by the open requests of each exit that serves, between the pool's bounds.

    `out` is how many an operator took out. Nothing is judged while fewer serve than should: whoever comes will take its part.
    """
    wanted = min(max(scale.wanted, wish.minimum), wish.maximum)
    if wish.requests_per_exit is None:
        return replace(scale, wanted=wish.minimum, busy_since=None, idle_since=None)
    whole = len(loads) >= max(wanted - out, 1)
    busy = whole and wanted < wish.maximum and sum(loads) > wish.requests_per_exit * len(loads)
    idle = whole and wanted > wish.minimum and sum(loads) < wish.requests_per_exit * IDLE_SHARE * max(len(loads) - 1, 0)
    busy_since = (scale.busy_since or now) if busy else None
    idle_since = (scale.idle_since or now) if idle else None
    if busy_since is not None and now - busy_since >= BUSY_FOR:
        return replace(scale, wanted=wanted + 1, busy_since=None, idle_since=None)
    if idle_since is not None and now - idle_since >= IDLE_FOR:
        return replace(scale, wanted=wanted - 1, busy_since=None, idle_since=None)
    return replace(scale, wanted=wanted, busy_since=busy_since, idle_since=idle_since)


def back_off(scale: PoolScale, now: datetime) -> PoolScale:
    """After a failure the pool waits: 1 s, 2 s, 4 s and so on up to 60 s."""
    pause = min(timedelta(seconds=2 ** min(scale.failures, _DOUBLINGS_MAX)), BACKOFF_MAX)
    return replace(scale, failures=scale.failures + 1, retry_at=now + pause)
