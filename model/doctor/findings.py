"""Findings, and how checks make them from facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, Final, Generic, TypeVar

F = TypeVar("F")
FORMAT: Final = 1
"""The version of the JSON that `as_json` makes. Fields may be added to it without a new one."""


class Severity(IntEnum):
    """The weight of a finding. `note` is a fact to know, `warning` a weakness, `error` a failure or an open door."""

    OK = 0
    NOTE = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class Judgement:
    """The result of a check about one thing: its severity, what was found, and what to do."""

    severity: Severity
    summary: str
    hint: str


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """A judgement with the name of its check. `hint` is None for what is in order."""

    check: str
    severity: Severity
    summary: str
    hint: str | None = None


@dataclass(frozen=True)  # without slots, into which typing would write
class Check(Generic[F]):
    """A check: its stable name, what is true when it finds nothing, and its function."""

    name: str
    sound: str
    judge: Callable[[F], Iterable[Judgement]]


def note(summary: str, hint: str) -> Judgement:
    return Judgement(Severity.NOTE, summary, hint)


def warning(summary: str, hint: str) -> Judgement:
    return Judgement(Severity.WARNING, summary, hint)


def error(summary: str, hint: str) -> Judgement:
    return Judgement(Severity.ERROR, summary, hint)


def examine(checks: Sequence[Check[F]], facts: F | None, *, unknown: str = "") -> Iterator[CheckFinding]:
    """Run checks on facts. Without facts each check is a note that says why (`unknown`)."""
    for check in checks:
        if facts is None:
            yield CheckFinding(check.name, Severity.NOTE, f"not checked: {unknown}", "repeat it when that is repaired")
            continue
        found = [CheckFinding(check.name, each.severity, each.summary, each.hint) for each in check.judge(facts)]
        yield from found or [CheckFinding(check.name, Severity.OK, check.sound)]


def exit_status(findings: Iterable[CheckFinding]) -> int:
    """Return 0 if nothing is worse than a note, 1 for warnings, 2 for errors."""
    return max(0, max((each.severity for each in findings), default=Severity.OK) - Severity.NOTE)


def as_json(subject: str, findings: Sequence[CheckFinding]) -> dict[str, Any]:
    """Return findings as JSON-like data."""
    worst = max((each.severity for each in findings), default=Severity.OK)
    shown = [{**asdict(each), "severity": each.severity.name.lower()} for each in findings]
    return {"format": FORMAT, "subject": subject, "worst": worst.name.lower(), "findings": shown}
