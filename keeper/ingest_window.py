"""The ingest window: the time since which the control plane has received heartbeats without a break.

Only silence within it counts. See docs/decisions/0006-silence-counts-within-the-ingest-window.md.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

MAX_GAP: Final = timedelta(seconds=5)
"""The oldest that the API's last flush, or the keeper's own last observation, may be before the window breaks."""


class IngestWindow:
    """Tracks since when heartbeats have been received and stored without a break."""

    def __init__(self) -> None:
        self.since: datetime | None = None
        """The start of the window; None while no replica of the API receives and stores heartbeats."""
        self.until: datetime | None = None
        """The end of the window: the time until which heartbeats could be received."""
        self._observed_at: datetime | None = None

    def observe(self, now: datetime, watermark: datetime | None) -> None:
        """Record that at `now` the newest flush of any replica of the API was at `watermark`.

        A gap between observations (PostgreSQL or this process was away, or the clock jumped) breaks the window as a missing
        flush does.
        """
        broken = self._observed_at is None or not timedelta(0) <= now - self._observed_at <= MAX_GAP
        self._observed_at = now
        self.until = watermark and min(now, watermark)
        if watermark is None or now - watermark > MAX_GAP:
            self.since = None
        elif broken or self.since is None:
            self.since = now

    def silence(self, heard_at: datetime) -> timedelta:
        """Return how long the sender of a heartbeat from `heard_at` has been silent within the window."""
        if self.since is None or self.until is None:
            return timedelta(0)
        return max(timedelta(0), self.until - max(heard_at, self.since))

    def silence_cutoff(self, limit: timedelta) -> datetime | None:
        """Return the time before which a last heartbeat means more than `limit` of silence.

        None while the window is not longer than `limit`: then silence counts against no exit.
        """
        if self.since is None or self.until is None or self.until - self.since <= limit:
            return None
        return self.until - limit
