"""The scale of tests that draw examples or repeat themselves: 1 by day, 5 in nightly runs."""

from __future__ import annotations

import os

SCALE = "EXITPLANE_TEST_SCALE"


def at_night() -> bool:
    """Return True in a run that searches for new examples instead of repeating the known ones."""
    return _scale() > 1


def scaled(count: int) -> int:
    """Multiply a number of examples or repetitions by EXITPLANE_TEST_SCALE (default 1; `make test-nightly` sets 5)."""
    return max(1, round(count * _scale()))


def _scale() -> float:
    return float(os.environ.get(SCALE, "1"))
