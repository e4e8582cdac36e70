"""Which tests one process of pytest-xdist runs."""

from __future__ import annotations

from pathlib import Path

from tests.scheduling import DEFAULT_SCENE, LONGEST_FIRST, SCENES, SceneScheduling


def scope_of(nodeid: str) -> str:
    return SceneScheduling._split_scope(None, nodeid)


def test_modules_that_need_one_scene_are_one_scope():
    scopes = {scope_of(f"tests/e2e/{name}.py::test_x[a::b]") for name in ("test_restarts", "test_fail_static")}
    assert len(scopes) == 1
    assert scope_of("tests/e2e/test_asking.py::test_x") == scope_of("tests/e2e/test_variants.py::test_y")
    assert scope_of("tests/e2e/test_asking.py::test_x") not in scopes


def test_any_other_module_is_a_scope_of_its_own():
    assert scope_of("tests/envoy/test_parent_proxies.py::Class::test_x") == "tests/envoy/test_parent_proxies.py"
    assert scope_of("tests/envoy/test_parent_proxies.py::test_x") != scope_of("tests/e2e/test_parents.py::test_x")


def test_scenes_are_those_of_modules_that_exist():
    folder = Path(__file__).parent / "e2e"
    assert [name for name in SCENES if not (folder / f"{name}.py").exists()] == []
    assert {*LONGEST_FIRST} == {*SCENES.values(), DEFAULT_SCENE}
