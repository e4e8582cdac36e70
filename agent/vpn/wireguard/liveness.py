"""The liveness of a WireGuard server, judged by the counters of its device. Pure.

A live server answers data within 10 s, with an empty packet at least (KEEPALIVE_TIMEOUT of WireGuard's paper, section 6.5). It does
not answer keepalives, which have 32 bytes. There is a new handshake every 2 minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SILENCE_S: Final = 15.0
"""The time that data may stay unanswered: WireGuard itself tries a new handshake then."""
HANDSHAKE_MAX_S: Final = 180.0
"""After this, WireGuard sends nothing with a session's keys (REJECT_AFTER_TIME)."""
_KEEPALIVE_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class TransferSample:
    """The time of the last handshake (Unix seconds, 0: never), and the bytes received and sent so far."""

    handshake_at: int
    received: int
    sent: int


class HandshakeLiveness:
    """The judge of one server, fed with samples in order. Times are seconds of a monotonic clock."""

    def __init__(self, keepalive_s: int, server: str) -> None:
        self._keepalive_s = keepalive_s
        self._server = server
        self._last = TransferSample(0, 0, 0)
        self._received_at_s = 0.0
        self._handshake_at_s = 0.0
        self._unanswered_since_s: float | None = None

    def start(self, now_s: float, sample: TransferSample) -> None:
        """Take the sample with the first handshake."""
        self._last, self._received_at_s, self._handshake_at_s, self._unanswered_since_s = sample, now_s, now_s, None

    def update(self, now_s: float, sample: TransferSample) -> str | None:
        """Take a sample. Return why the server counts as dead, or None."""
        if sample.handshake_at != self._last.handshake_at:
            self._handshake_at_s = now_s
            self._last = TransferSample(sample.handshake_at, self._last.received, self._last.sent)
        if sample.received != self._last.received:
            self._last, self._received_at_s, self._unanswered_since_s = sample, now_s, None
        elif self._unanswered_since_s is None and sample.sent - self._last.sent > self._keepalive_bytes(now_s):
            self._unanswered_since_s = now_s
        if self._unanswered_since_s is not None and now_s - self._unanswered_since_s >= SILENCE_S:
            return f"{self._server} has not answered for {now_s - self._received_at_s:.0f} s"
        if now_s - self._handshake_at_s >= HANDSHAKE_MAX_S:
            return f"no handshake with {self._server} for {now_s - self._handshake_at_s:.0f} s"
        return None

    def _keepalive_bytes(self, now_s: float) -> float:
        """Return how many bytes of keepalives may have been sent since the last answer."""
        return _KEEPALIVE_BYTES * ((now_s - self._received_at_s) // self._keepalive_s + 1)
