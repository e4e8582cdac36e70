"""Message rules: a pure function from a rule, its memory of a subject, and the subject's conditions to what is to be told.

A rule tells of one subject at most once in its cooldown, and once more that all is over: at most two messages within a cooldown,
however often the subject changes. What happens during a cooldown is told at its end, with its number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Final
from uuid import UUID

from model.message_events import FAULTS, GOOD_NEWS, MOMENTS, MessageEvent

_ONSETS_MAX: Final = 1_000
"""Beginnings of one event that are remembered and counted."""


@dataclass(frozen=True, slots=True)
class MessageRule:
    """A message rule. The patterns are of names, with `*`; None: any."""

    id: UUID
    name: str
    events: frozenset[MessageEvent]
    fleet: str | None = None
    pool: str | None = None
    exit: str | None = None
    threshold: int = 1
    within: timedelta = timedelta(hours=1)
    lasts: timedelta = timedelta(0)
    cooldown: timedelta = timedelta(minutes=5)
    recovery: bool = True


@dataclass(frozen=True, slots=True)
class Subject:
    """The thing that an event is about. `key` is unique among all kinds; names are None where it has none."""

    key: str
    label: str
    fleet: str | None = None
    pool: str | None = None
    exit: str | None = None


@dataclass(frozen=True, slots=True)
class SubjectCondition:
    """An event of a subject since the last evaluation: how often it began, and whether it holds now."""

    holds: bool
    onsets: int = 0
    detail: str = ""


Conditions = Mapping[MessageEvent, SubjectCondition]
"""The conditions of one subject. An event that is missing is unknown at the moment, and stays as it was."""


@dataclass(frozen=True, slots=True)
class SubjectMemory:
    """The memory that a rule has of a subject from one evaluation to the next."""

    onsets: Mapping[MessageEvent, tuple[datetime, ...]] = field(default_factory=dict)
    """Beginnings since the last message, within the rule's `within`."""
    since: Mapping[MessageEvent, datetime] = field(default_factory=dict)
    """The time from which a condition was seen to hold without a break."""
    untold: frozenset[MessageEvent] = frozenset()
    """Began, and no message told of it."""
    told: frozenset[MessageEvent] = frozenset()
    """Faults that a message told of, and no end of them."""
    clear_since: datetime | None = None
    """The time from which no fault was seen; None: one holds."""
    quiet_until: datetime | None = None
    """The end of the cooldown."""

    @property
    def is_empty(self) -> bool:
        return not (self.onsets or self.since or self.untold or self.told or self.quiet_until)


EMPTY: Final = SubjectMemory()


@dataclass(frozen=True, slots=True)
class Notice:
    """The news of a subject that a rule tells now: events, each with the number of its beginnings, or that all is over."""

    began: Mapping[MessageEvent, int]
    recovered: frozenset[MessageEvent] = frozenset()


def matches(rule: MessageRule, subject: Subject) -> bool:
    """Tell whether a rule is about a subject. A pattern matches no subject without such a name."""
    pairs = ((rule.fleet, subject.fleet), (rule.pool, subject.pool), (rule.exit, subject.exit))
    return all(pattern is None or (name is not None and fnmatchcase(name, pattern)) for pattern, name in pairs)


def evaluate(
    rule: MessageRule, memory: SubjectMemory, conditions: Conditions, now: datetime
) -> tuple[SubjectMemory, Notice | None]:
    """Return what a rule remembers from now on, and what it tells now; None: nothing."""
    seen = _observe(rule, memory, conditions, now)
    due = frozenset(event for event in seen.untold if _is_due(rule, seen, event, now))
    is_quiet = seen.quiet_until is not None and now < seen.quiet_until
    is_over = bool(seen.told) and seen.clear_since is not None and now - seen.clear_since >= rule.lasts
    tells_end = is_over and rule.recovery and (is_quiet or not due & FAULTS)
    began = (due & GOOD_NEWS if tells_end else frozenset()) if is_quiet else due
    counts = {event: len(seen.onsets.get(event, ())) for event in sorted(began)}
    notice = Notice(counts, seen.told if tells_end else frozenset()) if began or tells_end else None
    after = SubjectMemory(
        onsets={event: times for event, times in seen.onsets.items() if event not in began},
        since={event: at for event, at in seen.since.items() if event not in began & GOOD_NEWS},
        untold=seen.untold - began,
        told=(frozenset() if is_over else seen.told) | (began & FAULTS),
        clear_since=seen.clear_since,
        quiet_until=now + rule.cooldown if notice else seen.quiet_until if is_quiet else None,
    )
    return after, notice


def _observe(rule: MessageRule, memory: SubjectMemory, conditions: Conditions, now: datetime) -> SubjectMemory:
    """Bring a memory up to date with the conditions."""
    onsets, since, untold = {}, {}, set(memory.untold)
    for event in rule.events:
        began = memory.since.get(event)
        condition = conditions.get(event) or SubjectCondition(holds=began is not None)
        count = condition.onsets
        if event in FAULTS and condition.holds and began is None:
            count = count or 1  # it began before the rule, or before anybody looked
        if condition.holds and event not in MOMENTS and (count or began is not None):
            since[event] = now if count or began is None else began
        if count:
            untold.add(event)
        times = [each for each in memory.onsets.get(event, ()) if now - each < rule.within]
        if kept := (*times, *[now] * min(count, _ONSETS_MAX))[-_ONSETS_MAX:]:
            onsets[event] = kept
    too_short = {event for event in untold - MOMENTS if rule.lasts and event not in since}
    faults_began = any(each.onsets for event, each in conditions.items() if event in rule.events & FAULTS)
    since_when = now if faults_began or memory.clear_since is None else memory.clear_since
    return SubjectMemory(
        onsets=onsets,
        since=since,
        untold=frozenset(untold) & rule.events - too_short,
        told=memory.told & rule.events,
        clear_since=None if since.keys() & FAULTS else since_when,
        quiet_until=memory.quiet_until,
    )


def _is_due(rule: MessageRule, seen: SubjectMemory, event: MessageEvent, now: datetime) -> bool:
    """Tell whether an event began often enough, and lasted long enough."""
    if len(seen.onsets.get(event, ())) < rule.threshold:
        return False
    if event in MOMENTS or not rule.lasts:
        return True
    return event in seen.since and now - seen.since[event] >= rule.lasts


def to_json(memory: SubjectMemory) -> dict[str, Any]:
    """Write a memory as JSON values."""
    return {
        "onsets": {event.value: [each.isoformat() for each in times] for event, times in memory.onsets.items()},
        "since": {event.value: at.isoformat() for event, at in memory.since.items()},
        "untold": sorted(memory.untold),
        "told": sorted(memory.told),
        "clear_since": memory.clear_since and memory.clear_since.isoformat(),
        "quiet_until": memory.quiet_until and memory.quiet_until.isoformat(),
    }


def from_json(stored: Mapping[str, Any]) -> SubjectMemory:
    """Read what `to_json` wrote. Events of another version are left out."""
    return SubjectMemory(
        onsets={
            MessageEvent(event): tuple(map(datetime.fromisoformat, times))
            for event, times in stored["onsets"].items()
            if event in _KNOWN
        },
        since={
            MessageEvent(event): datetime.fromisoformat(at) for event, at in stored["since"].items() if event in _KNOWN
        },
        untold=frozenset(MessageEvent(event) for event in stored["untold"] if event in _KNOWN),
        told=frozenset(MessageEvent(event) for event in stored["told"] if event in _KNOWN),
        clear_since=_moment(stored["clear_since"]),
        quiet_until=_moment(stored["quiet_until"]),
    )


_KNOWN: Final = frozenset(event.value for event in MessageEvent)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
