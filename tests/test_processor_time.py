"""Tests of the limit of tests/processor_time.py on the processor time of a fast test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import processor_time
from tests.processor_time import ProcessorTimeLimit, own_time_s, slowness

pytest_plugins = ["pytester"]

SPEND = """
    import os
    import pytest

    def spend(seconds):
        end = sum(os.times()[:2]) + seconds
        while sum(os.times()[:2]) < end:
            pass
"""
TESTS = """
    def test_cheap():
        pass

    def test_expensive():
        spend(0.5)

    @pytest.fixture
    def own():
        spend(0.5)

    def test_with_an_expensive_fixture(own):
        pass

    @pytest.mark.slow
    def test_slow():
        spend(0.5)

    @pytest.mark.nightly
    def test_nightly():
        spend(0.5)
"""
SHARED = """
    @pytest.fixture(scope="module")
    def shared():
        spend(0.5)
        yield
        spend(0.5)

    @pytest.fixture
    def through(shared):
        pass

    def test_first(through):
        pass

    def test_last(shared):
        pass
"""
CHILD = """
    import subprocess
    import sys

    def test_child():
        burn = "import os\\nwhile sum(os.times()[:2]) < 0.5: pass"
        subprocess.run([sys.executable, "-c", burn], check=True)
"""


@pytest.fixture(autouse=True)
def no_other_plugins(monkeypatch):
    """Let nested runs load no installed plugin: pytester forgets their modules, so each run would import all of them anew."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def nested(pytester, monkeypatch):
    monkeypatch.setattr(processor_time, "slowness", lambda: 1.0)
    pytester.makeini("[pytest]\nmarkers =\n    slow: x\n    nightly: x")

    def run(tests):
        pytester.makepyfile(SPEND + tests)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", plugins=[ProcessorTimeLimit(0.25)])

    return run


@pytest.mark.slow
def test_expensive_test_fails_unless_marked(nested):
    result = nested(TESTS)
    result.assert_outcomes(passed=5, errors=2)
    result.stdout.fnmatch_lines(
        ["*test_expensive took 0.? s of processor time, and a fast test may take 0.2 s*mark it*"]
    )
    result.stdout.fnmatch_lines(["*test_with_an_expensive_fixture took 0.? s of processor time*"])


def test_fixture_of_wider_scope_does_not_count(nested):
    nested(SHARED).assert_outcomes(passed=2)


def test_child_counts_once_it_is_waited_for(nested):
    nested(CHILD).assert_outcomes(passed=1, errors=1)


@pytest.mark.slow
def test_slower_machine_has_a_higher_limit(nested, monkeypatch):
    monkeypatch.setattr(processor_time, "slowness", lambda: 20.0)
    nested(TESTS).assert_outcomes(passed=5)


@pytest.mark.slow
def test_slowness_is_measured_against_the_reference(monkeypatch):
    monkeypatch.setattr(processor_time, "REFERENCE_S", 1000.0)
    assert slowness() == 1
    monkeypatch.setattr(processor_time, "REFERENCE_S", 1e-6)
    assert slowness() > 1000


def test_own_time_grows_with_work():
    before = own_time_s()
    sum(range(2_000_000))
    assert own_time_s() > before


def test_conftest_limits_only_with_the_option(pytester):
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider")
    pytester.makepyfile(
        "def test_limit(pytestconfig):\n"
        "    names = {type(each).__name__ for each in pytestconfig.pluginmanager.get_plugins()}\n"
        "    assert ('ProcessorTimeLimit' in names) is pytestconfig.getoption('--limit-processor-time')\n"
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    pytester.runpytest_inprocess("--limit-processor-time").assert_outcomes(passed=1)
