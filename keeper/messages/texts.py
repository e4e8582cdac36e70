"""The texts of messages, as plain text: nothing in a name is markup. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from keeper.messages.evaluation import Conditions, Notice, Subject
from model.message_events import FAULTS, TITLES

LINES_MAX: Final = 30
LINE_CHARS_MAX: Final = 200
"""Together below the 4,096 characters of a Telegram message, and with room for what services add."""
TITLE_CHARS_MAX: Final = 150
BODY_CHARS_MAX: Final = 3_500


@dataclass(frozen=True, slots=True)
class Told:
    """A notice of a subject, with the conditions that it is about."""

    subject: Subject
    notice: Notice
    conditions: Conditions


def write_message(told: Sequence[Told]) -> dict[str, Any]:
    """Write one message about what a rule tells at one time.

    `kind` is `alert`, `recovery` or `news`; `items` are for programs, one for each subject and event.
    """
    lines = [_line(each) for each in told]
    title = (
        lines[0].partition(":")[0]
        if len(told) == 1
        else f"{len(told)} messages, the first: {lines[0].partition(':')[0]}"
    )
    shown = lines[:LINES_MAX]
    if len(lines) > len(shown):
        shown.append(f"and {len(lines) - len(shown)} more")
    return {
        "title": title[:TITLE_CHARS_MAX],
        "body": "\n".join(shown)[:BODY_CHARS_MAX],
        "kind": _kind(told),
        "items": [item for each in told for item in _items(each)][:1_000],
    }


def _kind(told: Sequence[Told]) -> str:
    if any(event in FAULTS for each in told for event in each.notice.began):
        return "alert"
    return "recovery" if any(each.notice.recovered for each in told) else "news"


def _line(told: Told) -> str:
    parts = [f"{TITLES[event]}{f' ({count} times)' if count > 1 else ''}" for event, count in told.notice.began.items()]
    if told.notice.recovered:
        parts.append(f"is well again ({', '.join(f'it {TITLES[event]}' for event in sorted(told.notice.recovered))})")
    details = dict.fromkeys(
        condition.detail
        for event in told.notice.began
        if (condition := told.conditions.get(event)) and condition.detail
    )
    text = f"{told.subject.label} {' and '.join(parts)}"
    return _plain(f"{text}: {'; '.join(details)}" if details else text)


def _items(told: Told) -> list[dict[str, Any]]:
    subject = {
        "subject": told.subject.key,
        "label": told.subject.label,
        "fleet": told.subject.fleet,
        "pool": told.subject.pool,
        "exit": told.subject.exit,
    }
    began = [
        {"event": event.value, "recovered": False, "count": count, **subject}
        for event, count in told.notice.began.items()
    ]
    return began + [
        {"event": event.value, "recovered": True, "count": 0, **subject} for event in sorted(told.notice.recovered)
    ]


def _plain(text: str) -> str:
    """Return one line without control characters: reasons contain what proxies and engines say."""
    return "".join(each if each.isprintable() else " " for each in text)[:LINE_CHARS_MAX]
