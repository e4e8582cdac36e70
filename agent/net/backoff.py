"""Exponential backoff with jitter."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Waits that double from `base_s` to `limit_s`, each drawn evenly from its upper half.

    The jitter keeps many agents that lost the same control plane from coming back at one moment.
    """

    def __init__(self, base_s: float, limit_s: float, draw: Callable[[], float] = random.random) -> None:
        self._base_s = base_s
        self._limit_s = limit_s
        self._draw = draw
        self._next_s = base_s

    def next_s(self) -> float:
        """Return the next wait, in seconds: the limit at most."""
        wait_s = self._next_s
        self._next_s = min(wait_s * 2, self._limit_s)
        return wait_s * (0.5 + self._draw() / 2)

    def reset(self) -> None:
        """Start again from `base_s`, after a success."""
        self._next_s = self._base_s
