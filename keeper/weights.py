"""The shares that multiply the weights of exits in pools with `weigh_by`: smoothed and in steps, so noise moves nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from model.entities import WeighBy
from model.exit_states import SERVING, ExitState
from model.repositories.exits import WeighedExit

MAX_SHARE: Final = 16
"""The share of the best exit of a pool; the others have a half, a quarter, … of it, down to 1."""
SMOOTHING: Final = 0.3
"""The weight of a new measurement in the moving average (exponential smoothing)."""
_HYSTERESIS_STEPS: Final = 0.75
"""The deviation in steps (powers of two) from which a measured share is followed. Half a step would flip on noise."""
_DEGRADED_FACTOR: Final = 0.25


class WeightSmoother:
    """Computes the shares of exits, and remembers the moving averages of their round trips."""

    def __init__(self) -> None:
        self._smooth_ms: dict[UUID, float] = {}

    def weigh(self, weighed: Sequence[WeighedExit], uptimes: Mapping[UUID, float]) -> dict[UUID, int]:
        """Return the shares that change, by exit. `uptimes` are from 0 to 1; an exit without one counts as 1."""
        pools: dict[UUID, list[WeighedExit]] = {}
        for each in weighed:
            pools.setdefault(each.pool_id, []).append(each)
        self._smooth_ms = {
            each.exit_id: self._smooth_ms[each.exit_id] for each in weighed if each.exit_id in self._smooth_ms
        }
        return {exit_id: share for members in pools.values() for exit_id, share in self._pool(members, uptimes).items()}

    def _pool(self, members: Sequence[WeighedExit], uptimes: Mapping[UUID, float]) -> dict[UUID, int]:
        scores = self._scores(members, uptimes)
        best = max((scores[each.exit_id] for each in members if each.state in SERVING), default=0.0)
        if best <= 0:
            return {}
        shares = {each.exit_id: step(each.share, min(1.0, scores[each.exit_id] / best)) for each in members}
        return {each.exit_id: shares[each.exit_id] for each in members if shares[each.exit_id] != each.share}

    def _scores(self, members: Sequence[WeighedExit], uptimes: Mapping[UUID, float]) -> dict[UUID, float]:
        """Return a score for each exit of one pool; only their ratios matter."""
        match members[0].weigh_by:
            case WeighBy.LATENCY:
                rtts_ms = {each.exit_id: self._smoothed(each.exit_id, each.rtt_ms) for each in members}
                slowest = max((ms for ms in rtts_ms.values() if ms is not None), default=1.0)
                return {exit_id: 1 / max(ms or slowest, 1e-3) for exit_id, ms in rtts_ms.items()}
            case WeighBy.COST:
                dearest = max((each.cost for each in members if each.cost is not None), default=1.0)
                return {each.exit_id: 1 / (dearest if each.cost is None else each.cost) for each in members}
            case WeighBy.HEALTH:
                return {
                    each.exit_id: uptimes.get(each.exit_id, 1.0)
                    * (_DEGRADED_FACTOR if each.state is ExitState.DEGRADED else 1.0)
                    for each in members
                }

    def _smoothed(self, exit_id: UUID, measured_ms: float | None) -> float | None:
        before = self._smooth_ms.get(exit_id)
        if measured_ms is None:
            return before
        now = measured_ms if before is None else before + SMOOTHING * (measured_ms - before)
        self._smooth_ms[exit_id] = now
        return now


def step(share: int, ratio: float) -> int:
    """Return the share, a power of two up to MAX_SHARE, of an exit with `ratio` (0 to 1) of the best score.

    It stays at `share`, its present one, until the measured one is clearly another.
    """
    wanted = math.log2(max(ratio * MAX_SHARE, 1.0))
    if share <= MAX_SHARE and abs(wanted - math.log2(share)) <= _HYSTERESIS_STEPS:
        return share
    return int(2 ** round(wanted))
