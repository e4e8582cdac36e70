"""How much a test that draws examples or repeats itself does: once by day, five times as much at night."""

from __future__ import annotations

import os

SCALE = "EXITPLANE_TEST_SCALE"


def at_night() -> bool:
    """True in a run that looks for new examples, rather than repeating the known ones."""
    return _scale() > 1


def scaled(count: int) -> int:
    """`count` examples or repetitions, times EXITPLANE_TEST_SCALE. `make test-nightly` sets 5; unset, it is 1."""
    return max(1, round(count * _scale()))


def _scale() -> float:
    return float(os.environ.get(SCALE, "1"))
