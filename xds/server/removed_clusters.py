"""Clusters that groups of proxies had until lately. A client that was away may use them: docs/xds-rules.md, rule 32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from model.entities import Accepted, ResourceKey
from model.world import World
from xds.translate.names import CLUSTER

KEPT_S: Final = 3600
"""Time for which a removed cluster is kept, in seconds."""
MAX_KEPT: Final = 1_000
"""Removed clusters that are kept of all groups, the newest."""


class RemovedClusters:
    """The clusters that were removed lately from what groups accepted. Callers pass the time in (seconds)."""

    def __init__(self) -> None:
        self._removed: dict[ResourceKey, tuple[float, Accepted]] = {}
        """The time of the removal and the last accepted version, oldest first."""

    def record(self, old: World, new: World, keys: Iterable[ResourceKey], now: float) -> None:
        """Record which of these accepted resources are clusters that the newer World lacks."""
        for key in keys:
            if key.type_url == CLUSTER and key in old.accepted and key not in new.accepted:
                self._removed.pop(key, None)
                self._removed[key] = now, old.accepted[key]
        while self._removed:
            oldest = next(iter(self._removed))
            if len(self._removed) <= MAX_KEPT and self._removed[oldest][0] > now - KEPT_S:
                return
            del self._removed[oldest]

    def of(self, group: str, now: float) -> Iterator[Accepted]:
        """Yield the clusters that a group lost lately, oldest first."""
        for key, (at, accepted) in self._removed.items():
            if key.group == group and at > now - KEPT_S:
                yield accepted
