"""The distribution of tests to the processes of pytest-xdist: no two processes open the same lab."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

LABS = {
    "test_canaries": "canaries",
    "test_changes_under_load": "lasting database",
    "test_fail_static": "lasting database",
    "test_restarts": "lasting database",
    "test_clock": "clock",
    "test_cut_streams": "cut streams",
    "test_database_away": "database away",
    "test_leaks": "leaks",
    "test_parents": "parents",
}
"""The labs of end-to-end modules that do not use the default one."""
DEFAULT_LAB = "two in us"
LONGEST_FIRST = (
    "lasting database",
    DEFAULT_LAB,
    "leaks",
    "clock",
    "cut streams",
    "database away",
    "parents",
    "canaries",
)
"""The labs by the duration of their tests, so that two processes end at about the same time."""


def lab_of(path: PurePath) -> str:
    """Return the lab of an end-to-end module."""
    return LABS.get(path.stem, DEFAULT_LAB)


class LabScheduling(LoadScopeScheduling):
    """A scheduler that gives all tests of a module, and all end-to-end modules of one lab, to one process.

    This is `--dist loadscope` with other scopes. The marks of `--dist loadgroup` have no effect with pytest 9.2
    (https://github.com/pytest-dev/pytest-xdist/issues/1386).
    """

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        # otherwise the scopes with most tests would come first, not the longest
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        path = PurePath(nodeid.partition("::")[0])
        return f"lab: {lab_of(path)}" if path.parent.name == "e2e" else str(path)
