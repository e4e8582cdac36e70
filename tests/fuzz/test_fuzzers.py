"""Parsers of what strangers send read any input, or refuse it as they document."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.fuzzers import FUZZERS, Fuzzer
from tests.scale import scaled

pytestmark = pytest.mark.slow
EXECUTIONS = "EXITPLANE_FUZZ_EXECUTIONS"
"""The executions of all fuzzers together, which share them equally."""


@pytest.mark.parametrize("fuzzer", FUZZERS, ids=lambda each: each.name)
def test_input_is_read_or_refused(fuzzer: Fuzzer, record_property: pytest.RecordProperty) -> None:
    wanted = int(os.environ.get(EXECUTIONS, "0")) // len(FUZZERS) or scaled(100)
    executions = 0

    @given(fuzzer.inputs)
    @settings(max_examples=wanted, database=None, suppress_health_check=[*HealthCheck])
    def run(given_input: object) -> None:
        nonlocal executions
        executions += 1
        fuzzer.check(given_input)

    run()
    record_property("executions", executions)
    assert executions >= wanted // 2  # Hypothesis ends early when it has drawn all inputs that there are
