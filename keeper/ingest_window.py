"""Since when the control plane has been able to hear: the only time in which an exit's silence counts.

See docs/decisions/0006-silence-and-hearing.md.
"""

from __future__ import annotations

from datetime import datetime, timedelta

MAX_GAP = timedelta(seconds=5)
"""How old the API's last successful flush, or the keeper's own last look, may be before hearing counts as interrupted."""


class IngestWindow:
    """Follows whether heartbeats could arrive and be stored without a break."""

    def __init__(self) -> None:
        self.since: datetime | None = None
        """The start of the unbroken hearing; None while nothing can be heard."""
        self._looked_at: datetime | None = None

    def look(self, now: datetime, heard_until: datetime | None) -> None:
        """Take note that at `now` the newest flush of any replica of the API was at `heard_until`.

        A gap between looks (PostgreSQL or this process was away, or the clock jumped) breaks the hearing as a missing
        flush does.
        """
        broken = self._looked_at is None or not timedelta(0) <= now - self._looked_at <= MAX_GAP
        self._looked_at = now
        if heard_until is None or now - heard_until > MAX_GAP:
            self.since = None
        elif broken or self.since is None:
            self.since = now

    def silence(self, now: datetime, heard_at: datetime) -> timedelta:
        """How long something last heard at `heard_at` has been silent while it could have been heard."""
        if self.since is None:
            return timedelta(0)
        return max(timedelta(0), now - max(heard_at, self.since))

    def silent_before(self, now: datetime, limit: timedelta) -> datetime | None:
        """Whatever was last heard before this has been silent for longer than `limit`; None: nothing can have been."""
        if self.since is None or now - self.since <= limit:
            return None
        return now - limit
