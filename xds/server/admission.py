"""What protects a replica from its clients, and its clients from each other."""

from __future__ import annotations

import random
from dataclasses import dataclass
from uuid import UUID

MAX_REQUEST_BYTES = 16 * 1024 * 1024
"""What a request may have; that of a proxy that comes back with 100,000 resources has about 10 MiB."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one replica. Times in seconds."""

    removal_grace_s: float = 1
    """How long a resource stays that nothing refers to any more."""
    write_timeout_s: float = 30
    """How long a client may leave a response unread before its stream is cut."""
    answer_timeout_s: float = 60
    """How long a client may leave a response unanswered. Envoy answers clusters once they are warm: up to 15 s later."""
    penalty_s: float = 10
    """How long a proxy stays out whose stream was ended for what it sent. No Envoy is meant by this."""
    admissions_per_s: float = 500
    """New streams a second, so that a herd that comes back does not starve those that are served."""
    admissions_burst: int = 1_000
    connection_age_s: float = 1_800
    """After which a client is asked to connect anew, to whichever replica it finds; 0 for never."""


class Admission:
    """A token bucket for new streams, and who stays out for a while; time is given (monotonic seconds)."""

    def __init__(self, per_s: float, burst: int, penalty_s: float) -> None:
        self._out: dict[UUID, float] = {}
        """Until when, by proxy."""
        self._penalty_s = penalty_s
        self._per_s = per_s
        self._burst = burst
        self._tokens = float(burst)
        self._at: float | None = None

    def admits(self, now: float) -> bool:
        """Whether one more may come in now."""
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def punish(self, proxy_id: UUID, now: float) -> None:
        """Keep a proxy out for a while: what it sends is costly, and is refused anyway."""
        self._out = {each: until for each, until in self._out.items() if until > now} | {
            proxy_id: now + self._penalty_s
        }

    def is_out(self, proxy_id: UUID, now: float) -> bool:
        """Whether a proxy is to stay out still."""
        return self._out.get(proxy_id, now) > now


@dataclass(frozen=True, slots=True)
class ConnectionAge:
    """When connections and their streams end, so that replicas rebalance and no two clients come back at once.

    gRPC says GOAWAY at the connection's age, give or take a tenth. The stream then ends by itself, with OK, before gRPC
    would cut it; its client opens the next one on a new connection.
    """

    connection_s: float

    @property
    def options(self) -> list[tuple[str, int]]:
        """For gRPC's server; none when connections do not age."""
        if self.connection_s <= 0:
            return []
        return [
            ("grpc.max_connection_age_ms", int(self.connection_s * 1000)),
            ("grpc.max_connection_age_grace_ms", int(self.connection_s * 600)),
        ]

    def of_stream(self) -> float:
        """How long a stream lives, in seconds: from after its connection's GOAWAY to before its end."""
        return self.connection_s * random.uniform(1.12, 1.45)  # noqa: S311 - to spread, not to hide
