"""What an exit went through in a time, and what that says of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from model.exit_states import SERVING, TAKEN_OUT, ExitState


@dataclass(frozen=True, slots=True)
class StateInterval:
    """A state that an exit was in. `until` is None for the one that it is in."""

    state: ExitState
    reason: str
    since: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class HistorySummary:
    """What the stays within a time say. Ratios and means are None where there is nothing to divide by."""

    serving: timedelta
    """How long it served clients."""
    due: timedelta
    """How long it should have: the time in which it was there and no operator had taken it out."""
    failures: int
    """How often it ceased to serve other than on purpose."""
    recovering: timedelta
    """How long it took, all together, to serve again after failures that it came back from."""
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


def summarize(stays: Sequence[StateInterval], start: datetime, end: datetime) -> HistorySummary:
    """What stays, which are in order and without holes, say of the time from `start` to `end`.

    Time in which an operator had taken the exit out counts neither for it nor against it.
    """
    serving = due = recovering = timedelta()
    failures = recoveries = 0
    failed_at: datetime | None = None
    before: ExitState | None = None
    for stay in stays:
        if stay.since >= end:
            break
        since, until = max(stay.since, start), min(stay.until or end, end)
        lasted = max(until - since, timedelta())
        if stay.state not in TAKEN_OUT:
            due += lasted
        if stay.state in SERVING:
            serving += lasted
            if failed_at is not None:
                recovering += stay.since - failed_at
                recoveries += 1
            failed_at = None
        elif stay.state in TAKEN_OUT:
            failed_at = None
        elif before in SERVING and stay.since >= start:
            failures += 1
            failed_at = stay.since
        before = stay.state
    return HistorySummary(serving, due, failures, recovering, recoveries)


def intervals_of(changes: Sequence[tuple[datetime, ExitState, str]]) -> Iterator[StateInterval]:
    """Changes of state, in order, as stays."""
    for number, (at, state, reason) in enumerate(changes):
        until = changes[number + 1][0] if number + 1 < len(changes) else None
        yield StateInterval(state, reason, at, until)
