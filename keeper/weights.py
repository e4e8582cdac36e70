"""What the weights of exits are multiplied by, where their pool weighs: smoothed and in steps, so that noise moves nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from model.entities import WeighBy
from model.exit_states import SERVING, ExitState
from model.repositories.exits import WeighedExit

TOP: Final = 16
"""The share of the best exit of a pool; the others have a half, a quarter, … of it, down to 1."""
SMOOTHING: Final = 0.3
"""How much of a new measurement goes into what is held of those before it."""
_STEADY: Final = 0.75
"""How many steps (powers of two) the measured share has to be off to be followed. Half a step would flip on noise."""
_DEGRADED: Final = 0.25


class WeightSmoother:
    """Weighs the exits of pools, remembering what was measured before."""

    def __init__(self) -> None:
        self._smooth: dict[UUID, float] = {}

    def weigh(self, candidates: Sequence[WeighedExit], uptimes: Mapping[UUID, float]) -> dict[UUID, int]:
        """The shares that are to change, by exit. `uptimes` are from 0 to 1; who is missing there has not been due."""
        pools: dict[UUID, list[WeighedExit]] = {}
        for each in candidates:
            pools.setdefault(each.pool_id, []).append(each)
        self._smooth = {each.exit_id: self._smooth[each.exit_id] for each in candidates if each.exit_id in self._smooth}
        return {exit_id: share for members in pools.values() for exit_id, share in self._pool(members, uptimes).items()}

    def _pool(self, members: Sequence[WeighedExit], uptimes: Mapping[UUID, float]) -> dict[UUID, int]:
        worth = self._worth(members, uptimes)
        best = max((worth[each.exit_id] for each in members if each.state in SERVING), default=0.0)
        if best <= 0:
            return {}
        found = {each.exit_id: step(each.share, min(1.0, worth[each.exit_id] / best)) for each in members}
        return {each.exit_id: found[each.exit_id] for each in members if found[each.exit_id] != each.share}

    def _worth(self, members: Sequence[WeighedExit], uptimes: Mapping[UUID, float]) -> dict[UUID, float]:
        """What each is worth beside the others; only ratios count."""
        match members[0].weigh_by:
            case WeighBy.LATENCY:
                taken = {each.exit_id: self._smoothed(each.exit_id, each.rtt_ms) for each in members}
                slowest = max((ms for ms in taken.values() if ms is not None), default=1.0)
                return {exit_id: 1 / max(ms or slowest, 1e-3) for exit_id, ms in taken.items()}
            case WeighBy.COST:
                dearest = max((each.cost for each in members if each.cost is not None), default=1.0)
                return {each.exit_id: 1 / (dearest if each.cost is None else each.cost) for each in members}
            case WeighBy.HEALTH:
                return {
                    each.exit_id: uptimes.get(each.exit_id, 1.0)
                    * (_DEGRADED if each.state is ExitState.DEGRADED else 1.0)
                    for each in members
                }

    def _smoothed(self, exit_id: UUID, measured: float | None) -> float | None:
        before = self._smooth.get(exit_id)
        if measured is None:
            return before
        now = measured if before is None else before + SMOOTHING * (measured - before)
        self._smooth[exit_id] = now
        return now


def step(share: int, ratio: float) -> int:
    """The share, a power of two up to TOP, for an exit that is worth `ratio` (0 to 1) of the best; `share` is what it has.

    It stays what it is until the measured one is clearly another.
    """
    wanted = math.log2(max(ratio * TOP, 1.0))
    if share <= TOP and abs(wanted - math.log2(share)) <= _STEADY:
        return share
    return int(2 ** round(wanted))
