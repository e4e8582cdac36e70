"""A limit on the processor time of each test without the mark `slow` or `nightly`.

Processor time depends less than elapsed time on other work of the machine. Child processes count once they are waited for;
fixtures of a wider scope do not count. On a machine that is slower than the reference, even for a moment, the limit is higher.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

LIMIT_S = 2.0
SLOW_LEVELS = ("slow", "nightly")
REFERENCE_S = 0.035
"""The processor time of `_work` on the reference machine."""
_ROUNDS = 5


def own_time_s() -> float:
    """Return the processor time in seconds of this process and of the children that it waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def slowness() -> float:
    """Measure how many times slower this machine is now than the reference; at least 1."""
    took = []
    for _ in range(_ROUNDS):
        began = os.times()
        _work()
        ended = os.times()
        took.append(ended.user + ended.system - began.user - began.system)
    return max(1.0, sum(took) / _ROUNDS / REFERENCE_S)


def _work() -> int:
    """Do a sample of what tests do: create objects, dictionaries and text."""
    made = {str(number): (number, {"name": f"exit-{number}"}) for number in range(40_000)}
    return sum(len(fields["name"]) + number for number, fields in made.values())


class ProcessorTimeLimit:
    """A plugin that fails tests without the marks of SLOW_LEVELS that exceed the limit."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._spent_s = 0.0
        self._shared_s = 0.0
        self._depth = 0
        self._shared_since = 0.0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, Any, Any]:
        self._spent_s = -own_time_s()
        self._shared_s = 0.0
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        fixturedef.addfinalizer(self._leave)  # finalizers run in reverse order, so this one is the last
        self._enter()
        try:
            return (yield)
        finally:
            self._leave()
            fixturedef.addfinalizer(self._enter)

    def _enter(self) -> None:
        if self._depth == 0:
            self._shared_since = own_time_s()
        self._depth += 1

    def _leave(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._shared_s += own_time_s() - self._shared_since

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "teardown" and report.passed and not any(map(item.get_closest_marker, SLOW_LEVELS)):
            self._apply_limit(item, report)
        return report

    def _apply_limit(self, item: pytest.Item, report: pytest.TestReport) -> None:
        spent_s = self._spent_s + own_time_s() - self._shared_s
        if spent_s <= self._limit_s:
            return
        limit_s = self._limit_s * slowness()
        if spent_s <= limit_s:
            return
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} took {spent_s:.1f} s of processor time, and a fast test may take {limit_s:.1f} s on this machine: "
            "let it do less, or mark it slow or nightly (docs/testing.md)"
        )
