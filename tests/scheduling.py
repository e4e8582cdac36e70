"""Hands tests to the processes of pytest-xdist, so that no two processes open the same scene."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

SCENES = {
    "test_changes_under_load": "lasting database",
    "test_fail_static": "lasting database",
    "test_restarts": "lasting database",
    "test_clock": "clock",
    "test_database_away": "database away",
    "test_leaks": "leaks",
    "test_parents": "parents",
}
"""The scene that an end-to-end module needs; all others need the default one."""
DEFAULT_SCENE = "two in us"
LONGEST_FIRST = ("lasting database", DEFAULT_SCENE, "leaks", "clock", "database away", "parents")
"""The scenes by how long their tests take, so that two processes end at about the same time."""


def scene_of(path: PurePath) -> str:
    """The scene that an end-to-end module needs."""
    return SCENES.get(path.stem, DEFAULT_SCENE)


class SceneScheduling(LoadScopeScheduling):
    """One process runs all tests of a module, and of the end-to-end modules all that need the same scene.

    It is `--dist loadscope` with scopes of its own. The marks of `--dist loadgroup` have no effect with pytest 9.2
    (https://github.com/pytest-dev/pytest-xdist/issues/1386).
    """

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        # else the scopes of most tests, and not those that take longest, would come first
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        path = PurePath(nodeid.partition("::")[0])
        return f"scene: {scene_of(path)}" if path.parent.name == "e2e" else str(path)
