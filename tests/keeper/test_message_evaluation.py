"""Message rules: thresholds, durations, cooldowns, recovery, and exits that flap."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from keeper.messages.evaluation import (
    EMPTY,
    MessageRule,
    Notice,
    Subject,
    SubjectCondition,
    evaluate,
    from_json,
    matches,
    to_json,
)
from model.message_events import COOLDOWN_MIN_S, MessageEvent
from tests.scale import scaled

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LOST, LEAKING, UP = MessageEvent.EXIT_LOST, MessageEvent.EXIT_LEAKING, MessageEvent.EXIT_UP
MOVED = MessageEvent.ADDRESS_CHANGED
OFF, ON, BEGAN, BLINKED = (
    SubjectCondition(False),
    SubjectCondition(True),
    SubjectCondition(True, 1),
    SubjectCondition(False, 1),
)


def rule(**fields):
    return MessageRule(UUID(int=1), "r", fields.pop("events", frozenset({LOST})), **fields)


def play(given_rule, *steps):
    """Evaluate at `(seconds, {event: condition})`, each with the memory of the step before; return `(seconds, notice)`."""
    memory, told = EMPTY, []
    for seconds, conditions in steps:
        memory = from_json(to_json(memory))
        memory, notice = evaluate(given_rule, memory, conditions, NOW + timedelta(seconds=seconds))
        if notice is not None:
            told.append((seconds, notice))
    return told


def test_fault_is_told_once_and_its_end_once():
    steps = [(0, {LOST: BEGAN}), *((n, {LOST: ON}) for n in range(1, 900, 60)), (900, {LOST: OFF}), (901, {LOST: OFF})]
    assert play(rule(), *steps) == [(0, Notice({LOST: 1})), (900, Notice({}, frozenset({LOST})))]


def test_rule_without_recovery_tells_no_end():
    assert play(rule(recovery=False), (0, {LOST: BEGAN}), (5, {LOST: OFF})) == [(0, Notice({LOST: 1}))]


def test_fault_older_than_the_rule_is_told():
    assert play(rule(), (0, {LOST: ON}), (1, {LOST: ON})) == [(0, Notice({LOST: 1}))]


def test_exit_that_was_up_before_the_rule_is_no_news():
    up = rule(events=frozenset({UP}))
    assert play(up, (0, {UP: ON}), (5, {UP: ON}), (9, {UP: BEGAN})) == [(9, Notice({UP: 1}))]


@pytest.mark.parametrize(("after_s", "told"), [(29, []), (30, [(30, Notice({LOST: 1}))])])
def test_fault_must_last(after_s, told):
    assert play(rule(lasts=timedelta(seconds=30)), (0, {LOST: BEGAN}), (after_s, {LOST: ON})) == told


def test_duration_starts_again_with_each_beginning():
    lasting = rule(lasts=timedelta(seconds=30))
    steps = [(0, {LOST: BEGAN}), (20, {LOST: OFF}), (25, {LOST: BEGAN}), (54, {LOST: ON}), (55, {LOST: ON})]
    assert play(lasting, *steps) == [(55, Notice({LOST: 2}))]


def test_end_must_last_as_long_as_the_fault():
    lasting = rule(lasts=timedelta(seconds=30))
    steps = [(0, {LOST: BEGAN}), (30, {LOST: ON}), (40, {LOST: OFF}), (69, {LOST: OFF}), (70, {LOST: OFF})]
    assert play(lasting, *steps) == [(30, Notice({LOST: 1})), (70, Notice({}, frozenset({LOST})))]


def test_threshold_counts_within_its_window():
    thrice = rule(threshold=3, within=timedelta(seconds=100), recovery=False)
    far_apart = [(at, {LOST: BLINKED}) for at in (0, 60, 120)]
    assert play(thrice, *far_apart) == []
    assert play(thrice, *far_apart, (150, {LOST: BLINKED})) == [(150, Notice({LOST: 3}))]


def test_change_within_cooldown_is_told_at_its_end():
    steps = [(0, {LOST: BEGAN}), (1, {LOST: ON, LEAKING: BEGAN}), (299, {LOST: ON, LEAKING: ON})]
    told = play(rule(events=frozenset({LOST, LEAKING})), *steps, (300, {LOST: ON, LEAKING: ON}))
    assert told == [(0, Notice({LOST: 1})), (300, Notice({LEAKING: 1}))]


def test_recovery_waits_for_the_end_of_all_faults():
    both = rule(events=frozenset({LOST, LEAKING}))
    steps = [(0, {LOST: BEGAN, LEAKING: BEGAN}), (9, {LOST: OFF, LEAKING: ON}), (12, {LOST: OFF, LEAKING: OFF})]
    assert play(both, *steps) == [(0, Notice({LEAKING: 1, LOST: 1})), (12, Notice({}, frozenset({LOST, LEAKING})))]


def test_recovery_begins_a_cooldown_too():
    steps = [(0, {LOST: BEGAN}), (400, {LOST: OFF}), (401, {LOST: BEGAN}), (699, {LOST: ON}), (700, {LOST: ON})]
    assert [seconds for seconds, _ in play(rule(), *steps)] == [0, 400, 700]


def test_up_is_told_with_the_recovery():
    both = rule(events=frozenset({LOST, UP}))
    told = play(both, (0, {LOST: BEGAN, UP: OFF}), (9, {LOST: OFF, UP: BEGAN}), (400, {LOST: OFF, UP: ON}))
    assert told == [(0, Notice({LOST: 1})), (9, Notice({UP: 1}, frozenset({LOST})))]


def test_unknown_condition_stays_as_it_was():
    assert play(rule(), (0, {LOST: BEGAN}), (5, {}), (9, {LOST: OFF}))[1:] == [(9, Notice({}, frozenset({LOST})))]


def test_moments_need_no_duration_and_have_no_end():
    moved = rule(events=frozenset({MOVED}), lasts=timedelta(seconds=30))
    assert play(moved, (0, {MOVED: BLINKED}), (1, {}), (400, {})) == [(0, Notice({MOVED: 1}))]


def test_quiet_subject_is_forgotten():
    memory, _ = evaluate(rule(), EMPTY, {LOST: BLINKED}, NOW)
    for seconds in (1, 301):
        memory, _ = evaluate(rule(), memory, {LOST: OFF}, NOW + timedelta(seconds=seconds))
    assert memory.is_empty


def test_flapping_exit_sends_two_messages_in_a_minute():
    """It flaps 100 times within a minute, in all ways that a rule can be about, and both between and at evaluations."""
    everything = rule(events=frozenset(MessageEvent), cooldown=timedelta(seconds=COOLDOWN_MIN_S))
    ways = [{LOST: BEGAN, UP: OFF}, {LOST: OFF, UP: BEGAN}, {LOST: BLINKED, UP: BLINKED}, {LEAKING: BEGAN}]
    steps = [(number * 0.6, ways[number % 4]) for number in range(100)]
    assert len(play(everything, *steps)) == 2
    later = play(everything, *steps, (90, {LOST: OFF, LEAKING: OFF, UP: ON}))
    assert sum(later[-1][1].began.values()) > 50  # what was held back is told with its number


CONDITIONS = some.dictionaries(
    some.sampled_from(MessageEvent), some.builds(SubjectCondition, some.booleans(), some.integers(0, 3)), max_size=4
)
RULES = some.builds(
    rule,
    events=some.frozensets(some.sampled_from(MessageEvent), min_size=1),
    threshold=some.integers(1, 3),
    lasts=some.sampled_from([timedelta(0), timedelta(seconds=10)]),
    cooldown=some.sampled_from([timedelta(seconds=COOLDOWN_MIN_S), timedelta(minutes=5)]),
    recovery=some.booleans(),
)


@settings(max_examples=scaled(60))
@given(RULES, some.lists(some.tuples(some.integers(1, 20), CONDITIONS), max_size=60))
def test_two_messages_at_most_within_a_cooldown(given_rule, pauses):
    at, steps = 0, []
    for pause, conditions in pauses:
        at += pause
        steps.append((at, conditions))
    recent: deque[float] = deque()
    for seconds, _ in play(given_rule, *steps):
        recent.append(seconds)
        while seconds - recent[0] >= given_rule.cooldown.total_seconds():
            recent.popleft()
        assert len(recent) <= 2


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({}, True),
        ({"fleet": "demo"}, True),
        ({"fleet": "de*", "pool": "us", "exit": "us-*"}, True),
        ({"fleet": "other"}, False),
        ({"exit": "us"}, False),
    ],
)
def test_rule_selects_by_patterns_of_names(patterns, expected):
    assert matches(rule(**patterns), Subject("exit:1", "exit us-1", "demo", "us", "us-1")) is expected


def test_pattern_matches_no_subject_without_a_name():
    assert not matches(rule(fleet="*"), Subject("control-plane", "the control plane"))
