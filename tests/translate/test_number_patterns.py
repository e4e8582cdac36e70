"""Patterns of number ranges and time windows match exactly the values inside."""

from __future__ import annotations

import re
from random import Random

import pytest

from model.entities import Window
from xds.translate.number_patterns import port_patterns, window_patterns

DAY = 24 * 60


@pytest.mark.parametrize(
    ("low", "high"),
    [(443, 443), (1, 65535), (8000, 8999), (80, 90), (1, 1023), (99, 100), (9, 10_000), (1024, 65535), (54321, 60000)],
)
def test_port_patterns_match_exactly_their_range(low, high):
    patterns = re.compile("|".join(port_patterns(low, high)))
    fitting = [port for port in range(65_536) if patterns.fullmatch(str(port))]
    assert fitting == [*range(low, high + 1)]


@pytest.mark.parametrize("seed", range(20))
def test_port_patterns_are_few_for_any_range(seed):
    low, high = sorted(Random(seed).choices(range(1, 65_536), k=2))
    patterns = [*port_patterns(low, high)]
    assert len(patterns) < 50
    for port in {low - 1, low, high, high + 1}:
        assert any(re.fullmatch(pattern, str(port)) for pattern in patterns) == (low <= port <= high)


@pytest.mark.parametrize(
    ("window", "minutes"),
    [
        (Window(frozenset({0}), 9 * 60, 17 * 60 + 30), {(0, minute) for minute in range(540, 1050)}),
        (Window(frozenset({0}), 0, DAY), {(0, minute) for minute in range(DAY)}),
        (Window(frozenset({6}), 1439, 1), {(6, 1439), (0, 0)}),
        (Window(frozenset({6}), 1439, 0), {(6, 1439)}),
        (Window(frozenset({4}), 60, 60), {(4, it) for it in range(60, DAY)} | {(5, it) for it in range(60)}),
        (Window(frozenset({1, 3}), 59, 61), {(day, minute) for day in (1, 3) for minute in (59, 60)}),
        (Window(frozenset(), 0, DAY), set()),
    ],
)
def test_window_patterns_match_exactly_their_minutes(window, minutes):
    patterns = [re.compile(pattern) for pattern in window_patterns(window)]
    fitting = {
        (day, minute)
        for day in range(7)
        for minute in range(DAY)
        if any(pattern.fullmatch(f"{day}-{minute // 60:02}{minute % 60:02}") for pattern in patterns)
    }
    assert fitting == minutes
