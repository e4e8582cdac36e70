"""The rate limit per credential, within one replica."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from api.http.problems import Problem
from api.kernel.caller import Caller

_BUCKETS_MAX: Final = 10_000


class KeepaliveThrottle:
    """A token bucket for each credential: `burst` calls at once, `per_s` calls a second in the long run.

    The default suits one key shared by all clients: 10,000 clients, each calling every five minutes, make 33 calls a second.
    """

    def __init__(self, clock: Callable[[], datetime], *, per_s: float = 50, burst: float = 500) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._full_at: dict[UUID, datetime] = {}
        """The time at which each bucket that is not full now will be full again."""

    def admit(self, caller: Caller) -> None:
        """Count a call. Raises Problem (429)."""
        now, key = self._clock(), caller.api_key_id or caller.operator_id
        if len(self._full_at) >= _BUCKETS_MAX:
            self._full_at = {other: at for other, at in self._full_at.items() if at > now}
        full_at = max(self._full_at.get(key, now), now) + timedelta(seconds=1 / self._per_s)
        over_s = (full_at - now).total_seconds() - self._burst / self._per_s
        if over_s > 0:
            raise Problem(
                429,
                "too_many_calls",
                f"this credential is used more often than {self._per_s:g} times a second",
                hint="call less often, or give each client a key of its own",
                headers={"Retry-After": str(math.ceil(over_s))},
            )
        self._full_at[key] = full_at
