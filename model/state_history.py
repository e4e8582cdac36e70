"""The history of an exit's states, and its summary: uptime, failures, recoveries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from model.exit_states import SERVING, TAKEN_OUT, ExitState


@dataclass(frozen=True, slots=True)
class StateInterval:
    """A state of an exit, with its time. `until` is None for the present state."""

    state: ExitState
    reason: str
    since: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class HistorySummary:
    """The summary of a time. Ratios and means are None where the divisor is zero."""

    serving: timedelta
    """The time in which it served clients."""
    due: timedelta
    """The time in which it should have served: it existed, and was not taken out."""
    failures: int
    """The number of times that it stopped serving, except on purpose."""
    recovering: timedelta
    """The sum of the times from a failure until it served again."""
    recoveries: int

    @property
    def uptime(self) -> float | None:
        return self.serving / self.due if self.due else None

    @property
    def mean_time_between_failures(self) -> timedelta | None:
        return self.serving / self.failures if self.failures else None

    @property
    def mean_time_to_recover(self) -> timedelta | None:
        return self.recovering / self.recoveries if self.recoveries else None


def summarize(intervals: Sequence[StateInterval], start: datetime, end: datetime) -> HistorySummary:
    """Summarize the time from `start` to `end` from intervals, which are in order and without gaps.

    Time in which the exit was taken out does not count.
    """
    serving = due = recovering = timedelta()
    failures = recoveries = 0
    failed_at: datetime | None = None
    before: ExitState | None = None
    for interval in intervals:
        if interval.since >= end:
            break
        since, until = max(interval.since, start), min(interval.until or end, end)
        lasted = max(until - since, timedelta())
        if interval.state not in TAKEN_OUT:
            due += lasted
        if interval.state in SERVING:
            serving += lasted
            if failed_at is not None:
                recovering += interval.since - failed_at
                recoveries += 1
            failed_at = None
        elif interval.state in TAKEN_OUT:
            failed_at = None
        elif before in SERVING and interval.since >= start:
            failures += 1
            failed_at = interval.since
        before = interval.state
    return HistorySummary(serving, due, failures, recovering, recoveries)


def intervals_of(changes: Sequence[tuple[datetime, ExitState, str]]) -> Iterator[StateInterval]:
    """Turn changes of state, in order, into intervals."""
    for number, (at, state, reason) in enumerate(changes):
        until = changes[number + 1][0] if number + 1 < len(changes) else None
        yield StateInterval(state, reason, at, until)
