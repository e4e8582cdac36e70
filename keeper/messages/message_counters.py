"""Counts of messages of one replica, and their metrics (docs/metrics.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from model.message_events import MessageEvent
from model.telemetry import metrics
from model.telemetry.metrics import Sample

RESULTS = ("sent", "retried", "failed")


@dataclass(slots=True, eq=False)
class MessageCounters:
    """The messages of one replica since its start."""

    events: Counter[MessageEvent] = field(default_factory=Counter)
    """Events that messages told of."""
    attempts: Counter[str] = field(default_factory=Counter)
    """Attempts to deliver, by result."""

    def samples(self) -> Iterator[Sample]:
        """Read the metrics of messages."""
        for event in MessageEvent:
            yield Sample(metrics.MESSAGE_EVENTS, self.events[event], (event.value,))
        for result in RESULTS:
            yield Sample(metrics.MESSAGE_ATTEMPTS, self.attempts[result], (result,))
