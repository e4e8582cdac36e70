"""Counts of one replica of the xDS server, as plain numbers of its event loop; `samples` reads them (docs/metrics.md)."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

from model.telemetry.distribution import CONVERGENCE_S, LATENCY_S, SIZE_BYTES, Distribution

REFUSAL_REASONS: Final = ("not_ready", "bad_request", "rate", "unauthenticated", "unknown_proxy")


def _latency() -> Distribution:
    return Distribution(LATENCY_S)


@dataclass(slots=True, eq=False)
class XdsCounters:
    """Counts since the start, by type URL where a dict. Every push updates some, so each costs a tenth of a microsecond."""

    response_bytes: defaultdict[str, Distribution] = field(
        default_factory=lambda: defaultdict(lambda: Distribution(SIZE_BYTES))
    )
    convergence_s: defaultdict[str, Distribution] = field(
        default_factory=lambda: defaultdict(lambda: Distribution(CONVERGENCE_S))
    )
    acks: Counter[str] = field(default_factory=Counter)
    nacks: Counter[str] = field(default_factory=Counter)
    expired_nonces: int = 0
    queue_s: Distribution = field(default_factory=_latency)
    publication_s: Distribution = field(default_factory=_latency)
    published_revisions: int = 0
    updates: int = 0
    coalesced: int = 0
    admitted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By one of REFUSAL_REASONS."""
    released: int = 0
    """Change-sets."""
