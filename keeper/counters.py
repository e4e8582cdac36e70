"""Counts of the keeper of one replica, and its metrics (docs/metrics.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from model.change_feed import ChangeFeed
from model.exit_states import ExitState
from model.telemetry import metrics
from model.telemetry.distribution import LATENCY_S, Distribution
from model.telemetry.metrics import Sample


@dataclass(slots=True, eq=False)
class KeeperCounters:
    """The work of one replica's keeper since its start."""

    leads: bool = False
    """It holds the lease."""
    round_s: Distribution = field(default_factory=lambda: Distribution(LATENCY_S))
    last_round: float = 0
    """The end of the last round (Unix time, seconds)."""
    transitions: Counter[ExitState] = field(default_factory=Counter)
    """Changes of exits' states, by the new state."""
    feed: ChangeFeed | None = None

    def samples(self) -> Iterator[Sample]:
        """Read the metrics of the keeper."""
        yield Sample(metrics.KEEPER_LEADER, self.leads)
        yield Sample(metrics.KEEPER_ROUNDS, self.round_s)
        yield Sample(metrics.KEEPER_LAST_ROUND, self.last_round)
        for state in ExitState:
            yield Sample(metrics.EXIT_TRANSITIONS, self.transitions[state], (state.value,))
        if self.feed is not None:
            yield Sample(metrics.LISTENING, self.feed.connected, ("keeper",))
