"""The destinations of a route: its weighted pools, each with the pools that it falls back to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from model.entities import Pool, ToPools
from xds.translate import names


@dataclass(frozen=True, slots=True)
class Destination:
    """A share of the requests, and its pools in order: each is used when those before it have no healthy exit."""

    weight: int
    pools: tuple[Pool, ...]

    @property
    def cluster(self) -> str:
        if len(self.pools) == 1:
            return names.pool_cluster(self.pools[0])
        return names.aggregate_cluster(pool.id for pool in self.pools)


def destinations(action: ToPools, find: Callable[[UUID], Pool | None]) -> tuple[Destination, ...]:
    """Return a destination for each weighted pool of a route; empty when none of its pools exist.

    A pool that does not exist counts as one without a healthy exit.
    """
    weighted = [(pool, weight) for pool_id, weight in action.weighted if (pool := find(pool_id))]
    fallback = [pool for pool_id in action.fallback if (pool := find(pool_id))]
    if not weighted:
        return (Destination(1, _distinct(fallback)),) if fallback else ()
    return _ring(weighted, fallback)


def share_evenly(pools: Sequence[Pool]) -> tuple[Destination, ...]:
    """Return a destination for each pool, in equal shares."""
    return _ring([(pool, 1) for pool in pools], ())


def _ring(weighted: Sequence[tuple[Pool, int]], fallback: Iterable[Pool]) -> tuple[Destination, ...]:
    """Let each pool fall back to the one after it, so that the share of a failed pool does not always go to the first."""
    fallback = tuple(fallback)
    found = []
    for index, (_, weight) in enumerate(weighted):
        rotated = [pool for pool, _ in (*weighted[index:], *weighted[:index])]
        found.append(Destination(weight, _distinct([*rotated, *fallback])))
    return tuple(found)


def _distinct(pools: Iterable[Pool]) -> tuple[Pool, ...]:
    return tuple({pool.id: pool for pool in pools}.values())
