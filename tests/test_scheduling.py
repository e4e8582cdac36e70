"""Tests of the distribution of tests to processes."""

from __future__ import annotations

from pathlib import Path

from tests.scheduling import DEFAULT_LAB, LABS, LONGEST_FIRST, LabScheduling


def scope_of(nodeid: str) -> str:
    return LabScheduling._split_scope(None, nodeid)


def test_modules_with_the_same_lab_are_one_scope():
    scopes = {scope_of(f"tests/e2e/{name}.py::test_x[a::b]") for name in ("test_restarts", "test_fail_static")}
    assert len(scopes) == 1
    assert scope_of("tests/e2e/test_requests.py::test_x") == scope_of("tests/e2e/test_xds_variants.py::test_y")
    assert scope_of("tests/e2e/test_requests.py::test_x") not in scopes


def test_any_other_module_is_a_scope_of_its_own():
    assert scope_of("tests/envoy/test_parent_proxies.py::Class::test_x") == "tests/envoy/test_parent_proxies.py"
    assert scope_of("tests/envoy/test_parent_proxies.py::test_x") != scope_of("tests/e2e/test_parents.py::test_x")


def test_labs_belong_to_existing_modules():
    folder = Path(__file__).parent / "e2e"
    assert [name for name in LABS if not (folder / f"{name}.py").exists()] == []
    assert {*LONGEST_FIRST} == {*LABS.values(), DEFAULT_LAB}
