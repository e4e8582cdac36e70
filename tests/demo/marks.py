"""Processes that carry a scene's mark."""

from __future__ import annotations

import time

from demo.processes import marked


def wait_for_marked(mark: str, count: int) -> list[int]:
    """Their ids, once there are so many.

    In the midst of its exec a process has no environment to be found by, even after Popen has returned.
    """
    deadline = time.monotonic() + 60
    while len(found := marked(mark)) != count:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found
