"""Whether a WireGuard server is alive, from what its device counts. Pure.

A server that lives answers whatever carries data within 10 s, with an empty packet if with nothing else (KEEPALIVE_TIMEOUT of
WireGuard's paper, 6.5); signs of life alone, 32 bytes each, are not answered. A handshake is made anew every 2 minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SILENCE_S: Final = 15.0
"""How long data may stay unanswered: WireGuard's own limit before it tries a new handshake."""
HANDSHAKE_MAX_S: Final = 180.0
"""After this, WireGuard itself sends nothing with a session's keys (REJECT_AFTER_TIME)."""
_SIGN_OF_LIFE_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class TransferSample:
    """When the last handshake was (seconds since 1970, 0: never), and the bytes received and sent since the beginning."""

    handshake_at: int
    received: int
    sent: int


class HandshakeLiveness:
    """Hears samples in order. Times are a monotonic clock's seconds."""

    def __init__(self, keepalive_s: int, server: str) -> None:
        self._keepalive_s = keepalive_s
        self._server = server
        self._last = TransferSample(0, 0, 0)
        self._heard_s = 0.0
        self._shaken_s = 0.0
        self._unanswered_s: float | None = None

    def begin(self, now_s: float, sample: TransferSample) -> None:
        """The first handshake was just seen."""
        self._last, self._heard_s, self._shaken_s, self._unanswered_s = sample, now_s, now_s, None

    def hear(self, now_s: float, sample: TransferSample) -> str | None:
        """What a sample says is wrong. The words hold how long, and are said once: a tunnel that is dead is taken down."""
        if sample.handshake_at != self._last.handshake_at:
            self._shaken_s = now_s
            self._last = TransferSample(sample.handshake_at, self._last.received, self._last.sent)
        if sample.received != self._last.received:
            self._last, self._heard_s, self._unanswered_s = sample, now_s, None
        elif self._unanswered_s is None and sample.sent - self._last.sent > self._signs_of_life(now_s):
            self._unanswered_s = now_s
        if self._unanswered_s is not None and now_s - self._unanswered_s >= SILENCE_S:
            return f"{self._server} has not answered for {now_s - self._heard_s:.0f} s"
        if now_s - self._shaken_s >= HANDSHAKE_MAX_S:
            return f"no handshake with {self._server} for {now_s - self._shaken_s:.0f} s"
        return None

    def _signs_of_life(self, now_s: float) -> float:
        """As many bytes as may have been sent without an answer being due."""
        return _SIGN_OF_LIFE_BYTES * ((now_s - self._heard_s) // self._keepalive_s + 1)
