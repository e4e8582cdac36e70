"""A wait for processes with a lab's mark."""

from __future__ import annotations

import time

from demo.processes import find_processes_with_mark


def wait_for_marked(mark: str, count: int) -> list[int]:
    """Wait until there are `count` processes with a mark, and return their ids.

    During its exec a process has no environment, even after Popen has returned.
    """
    deadline = time.monotonic() + 60
    while len(found := find_processes_with_mark(mark)) != count:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found
