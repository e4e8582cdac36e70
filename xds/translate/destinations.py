"""Where a route leads, with what each pool falls back to: clusters that go on from one pool to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from model.entities import Pool, ToPools
from xds.translate import names


@dataclass(frozen=True, slots=True)
class Destination:
    """Pools in the order in which they are used, each when those before it have no healthy exit; and its share."""

    weight: int
    pools: tuple[Pool, ...]

    @property
    def cluster(self) -> str:
        if len(self.pools) == 1:
            return names.pool_cluster(self.pools[0])
        return names.aggregate_cluster(pool.id for pool in self.pools)


def destinations(action: ToPools, find: Callable[[UUID], Pool | None]) -> tuple[Destination, ...]:
    """The destinations of a route: one for each of its weighted pools. Empty when none of its pools exist any more.

    A pool that is gone counts as one without a healthy exit.
    """
    weighted = [(pool, weight) for pool_id, weight in action.weighted if (pool := find(pool_id))]
    fallback = [pool for pool_id in action.fallback if (pool := find(pool_id))]
    if not weighted:
        return (Destination(1, _distinct(fallback)),) if fallback else ()
    return _ring(weighted, fallback)


def evenly(pools: Sequence[Pool]) -> tuple[Destination, ...]:
    """All of these in equal shares."""
    return _ring([(pool, 1) for pool in pools], ())


def _ring(weighted: Sequence[tuple[Pool, int]], fallback: Iterable[Pool]) -> tuple[Destination, ...]:
    """Each falls back to the one after it, so that what one leaves is not all the first one's."""
    fallback = tuple(fallback)
    found = []
    for index, (_, weight) in enumerate(weighted):
        turned = [pool for pool, _ in (*weighted[index:], *weighted[:index])]
        found.append(Destination(weight, _distinct([*turned, *fallback])))
    return tuple(found)


def _distinct(pools: Iterable[Pool]) -> tuple[Pool, ...]:
    return tuple({pool.id: pool for pool in pools}.values())
