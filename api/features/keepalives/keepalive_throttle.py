"""How often a credential may call, per replica."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from api.http.problems import Problem
from api.kernel.caller import Caller

_KNOWN_MAX: Final = 10_000


class KeepaliveThrottle:
    """A bucket for each credential: `burst` calls at once, `per_s` in the long run.

    The default is for one key that all clients share: 10,000 of them, each every five minutes, are 33 a second.
    """

    def __init__(self, clock: Callable[[], datetime], *, per_s: float = 50, burst: float = 500) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._full_at: dict[UUID, datetime] = {}
        """When each bucket that is not full will be."""

    def admit(self, caller: Caller) -> None:
        """Count a call. Raises Problem (429)."""
        now, key = self._clock(), caller.api_key_id or caller.operator_id
        if len(self._full_at) >= _KNOWN_MAX:
            self._full_at = {known: at for known, at in self._full_at.items() if at > now}
        full_at = max(self._full_at.get(key, now), now) + timedelta(seconds=1 / self._per_s)
        over_s = (full_at - now).total_seconds() - self._burst / self._per_s
        if over_s > 0:
            raise Problem(
                429,
                "too_many_calls",
                f"this credential is used more than {self._per_s:g} times a second",
                hint="call less often, or give clients keys of their own",
                headers={"Retry-After": str(math.ceil(over_s))},
            )
        self._full_at[key] = full_at
