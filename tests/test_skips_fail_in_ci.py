"""Tests of the rule in tests/conftest.py that a skipped test fails in CI."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

MARKED = """
    import pytest

    @pytest.mark.skip(reason="needs tunnels")
    def test_marked():
        pass

    def test_inside():
        pytest.skip("no Envoy")

    @pytest.mark.xfail(reason="known", strict=True)
    def test_expected():
        raise AssertionError

    def test_good():
        pass
"""
WHOLE = 'import pytest\npytest.skip("no PostgreSQL", allow_module_level=True)'


@pytest.fixture
def nested(pytester, monkeypatch):
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())

    def run(ci, **files):
        monkeypatch.setenv("CI", ci)
        # pytester forgets the modules of installed plugins, so each nested run would import all of them anew
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        pytester.makepyfile(**files)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider")

    return run


def test_skipped_test_fails_in_ci_with_its_reason(nested):
    result = nested("true", test_marked=MARKED)
    result.assert_outcomes(passed=1, failed=1, errors=1, xfailed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*test_marked was skipped in CI, where every test must run*needs tunnels*"])
    result.stdout.fnmatch_lines(["*test_inside was skipped in CI, where every test must run*no Envoy*"])


def test_skipped_module_fails_in_ci(nested):
    result = nested("true", test_whole=WHOLE)
    assert result.ret != pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*was skipped in CI, where every test must run*no PostgreSQL*"])


@pytest.mark.parametrize("ci", ["", "false"])
def test_skipped_test_is_skipped_outside_ci(nested, ci):
    result = nested(ci, test_marked=MARKED, test_whole=WHOLE)
    result.assert_outcomes(passed=1, skipped=3, xfailed=1)
    assert result.ret == pytest.ExitCode.OK
