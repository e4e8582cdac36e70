"""Ranges of numbers as regular expressions, for matchers of text."""

from __future__ import annotations

from collections.abc import Iterator

from model.entities import Window

_DAY: int = 24 * 60


def port_patterns(low: int, high: int) -> Iterator[str]:
    """Yield patterns that match exactly the decimal numbers from `low` to `high`, without leading zeros."""
    for length in range(len(str(low)), len(str(high)) + 1):
        first, last = max(low, 10 ** (length - 1)), min(high, 10**length - 1)
        if first <= last:
            yield from _patterns(str(first), str(last))


def window_patterns(window: Window) -> Iterator[str]:
    """Yield patterns that match the times in a window, as the gateway writes them (`names.TIME`)."""
    if window.start < window.end:
        yield from _time_patterns(window.days, window.start, window.end)
        return
    yield from _time_patterns(window.days, window.start, _DAY)
    yield from _time_patterns(frozenset((day + 1) % 7 for day in window.days), 0, window.end)


def _time_patterns(days: frozenset[int], start: int, end: int) -> Iterator[str]:
    if not days or start >= end:
        return
    any_day = f"[{''.join(map(str, sorted(days)))}]-"
    for pattern in _patterns(_as_time(start), _as_time(end - 1)):
        yield any_day + pattern


def _as_time(minute: int) -> str:
    return f"{minute // 60:02}{minute % 60:02}"


def _patterns(low: str, high: str) -> Iterator[str]:
    """Yield patterns that match all strings of digits from `low` to `high`, which have the same length."""
    if low == high:
        yield low
    elif not low.strip("0") and not high.strip("9"):
        yield "[0-9]" * len(low)
    elif low[0] == high[0]:
        for pattern in _patterns(low[1:], high[1:]):
            yield low[0] + pattern
    else:
        rest = len(low) - 1
        first, last = int(low[0]), int(high[0])
        if low[1:].strip("0"):
            for pattern in _patterns(low[1:], "9" * rest):
                yield low[0] + pattern
            first += 1
        if high[1:].strip("9"):
            last -= 1
        if first <= last:
            yield (f"[{first}-{last}]" if first < last else str(first)) + "[0-9]" * rest
        if high[1:].strip("9"):
            for pattern in _patterns("0" * rest, high[1:]):
                yield high[0] + pattern
