"""What one look found beside the address itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

TOLD_MAX: Final = 500
"""What the control plane takes of one sentence: a heartbeat that it refuses would be silence."""


@dataclass(frozen=True, slots=True)
class LeakFinding:
    """`leak`: what leaves outside the tunnel; `trouble`: why that is not known; `told`: what an operator should see."""

    leak: str = ""
    trouble: str = ""
    told: str = ""
    seen: str | None = None
    """Who was seen: a resolver, or an IPv6 address."""


def joined(parts: Iterable[str]) -> str:
    """Each part that says something, once, as one bounded sentence."""
    return "; ".join(dict.fromkeys(filter(None, parts)))[:TOLD_MAX]
