"""Limits that protect a replica from its clients, and clients from each other."""

from __future__ import annotations

import random
from dataclasses import dataclass
from uuid import UUID

MAX_REQUEST_BYTES = 16 * 1024 * 1024
"""The largest request that is read. A proxy that reconnects with 100,000 resources sends about 10 MiB."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one replica. Times are in seconds."""

    removal_grace_s: float = 1
    """Time for which a resource that nothing refers to stays before it is removed."""
    write_timeout_s: float = 30
    """Time for which a client may leave a response unread before its stream ends."""
    answer_timeout_s: float = 60
    """Time for which a client may leave a response unanswered. Envoy acknowledges clusters once warm, up to 15 s later."""
    penalty_s: float = 10
    """Time for which a proxy is blocked after a bad request. No Envoy sends such requests."""
    admissions_per_s: float = 500
    """New streams a second, so that many reconnecting clients do not starve those that are served."""
    admissions_burst: int = 1_000
    connection_age_s: float = 1_800
    """Age at which a client is asked to reconnect, to any replica; 0 for never."""


class Admission:
    """A token bucket for new streams, and the proxies that are blocked. Callers pass the time in (monotonic seconds)."""

    def __init__(self, per_s: float, burst: int, penalty_s: float) -> None:
        self._blocked_until: dict[UUID, float] = {}
        self._penalty_s = penalty_s
        self._per_s = per_s
        self._burst = burst
        self._tokens = float(burst)
        self._refilled_at: float | None = None

    def admit(self, now: float) -> bool:
        """Take a token for a new stream. Return False if none is left."""
        if self._refilled_at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) * self._per_s)
        self._refilled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def block(self, proxy_id: UUID, now: float) -> None:
        """Block a proxy for `penalty_s`, because its requests are costly and are rejected anyway."""
        current = {each: until for each, until in self._blocked_until.items() if until > now}
        self._blocked_until = current | {proxy_id: now + self._penalty_s}

    def is_blocked(self, proxy_id: UUID, now: float) -> bool:
        return self._blocked_until.get(proxy_id, now) > now


@dataclass(frozen=True, slots=True)
class ConnectionAge:
    """The age at which connections and their streams end, so that replicas rebalance and clients reconnect one by one.

    gRPC sends GOAWAY at the connection's age, plus or minus a tenth. The server then ends each stream with OK before gRPC
    would cut it, also one that was opened just before the GOAWAY, and the client opens the next stream on a new connection.
    """

    connection_s: float

    @property
    def options(self) -> list[tuple[str, int]]:
        """Options for gRPC's server; empty if connections do not age."""
        if self.connection_s <= 0:
            return []
        return [
            ("grpc.max_connection_age_ms", int(self.connection_s * 1000)),
            ("grpc.max_connection_age_grace_ms", int(self.connection_s * 2000)),
        ]

    def draw_stream_age_s(self) -> float:
        """Draw the age of a stream in seconds: more than its connection's at the GOAWAY, less than the grace after it."""
        return self.connection_s * random.uniform(1.12, 1.45)  # noqa: S311 - spreads load, keeps no secret
