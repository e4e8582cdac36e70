"""Computed shares: proportional to the score, smoothed, in steps, and stable under noise."""

from __future__ import annotations

import random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.weights import MAX_SHARE, WeightSmoother, step
from model.entities import WeighBy
from model.exit_states import ExitState
from model.repositories.exits import WeighedExit

POOL = UUID(int=1)


def candidate(number: int, by: WeighBy, **more) -> WeighedExit:
    given = {"state": ExitState.HEALTHY, "share": 1, "cost": None, "rtt_ms": None} | more
    return WeighedExit(UUID(int=number), POOL, by, **given)


def weigh(candidates, uptimes=None, scales=None) -> list[int]:
    """Return the share of each exit after one computation."""
    changed = (scales or WeightSmoother()).weigh(candidates, uptimes or {})
    return [changed.get(each.exit_id, each.share) for each in candidates]


def test_half_the_round_trip_doubles_the_share():
    found = weigh([candidate(number, WeighBy.LATENCY, rtt_ms=ms) for number, ms in enumerate((10, 20, 40, 80))])
    assert found == [16, 8, 4, 2]


def test_unmeasured_exit_weighs_as_the_slowest():
    found = weigh([candidate(number, WeighBy.LATENCY, rtt_ms=ms) for number, ms in enumerate((10, 80, None))])
    assert found == [16, 2, 2]


def test_half_the_cost_doubles_the_share_and_no_cost_is_the_highest():
    found = weigh([candidate(number, WeighBy.COST, cost=cost) for number, cost in enumerate((1, 2, 4, None))])
    assert found == [16, 8, 4, 4]


def test_health_weighs_by_uptime_and_a_quarter_while_degraded():
    exits = [
        candidate(1, WeighBy.HEALTH),
        candidate(2, WeighBy.HEALTH),
        candidate(3, WeighBy.HEALTH, state=ExitState.DEGRADED),
    ]
    assert weigh(exits, {UUID(int=1): 1.0, UUID(int=2): 0.5, UUID(int=3): 1.0}) == [16, 8, 4]


def test_exits_of_other_pools_do_not_count():
    other = candidate(2, WeighBy.COST, cost=1)._replace(pool_id=UUID(int=9))
    assert weigh([candidate(1, WeighBy.COST, cost=100), other]) == [16, 16]


def test_best_exit_is_one_that_serves():
    exits = [candidate(1, WeighBy.COST, cost=1, state=ExitState.LOST), candidate(2, WeighBy.COST, cost=4)]
    assert weigh(exits)[1] == 16


def test_no_share_changes_while_no_exit_serves():
    assert weigh([candidate(1, WeighBy.COST, cost=1, state=ExitState.LOST, share=4)]) == [4]


def test_noise_moves_no_share():
    """Each measurement differs by up to a third from the real value."""
    noise, scales = random.Random(1), WeightSmoother()
    exits = [candidate(number, WeighBy.LATENCY, rtt_ms=ms) for number, ms in enumerate((10, 20, 40))]
    exits = [each._replace(share=share) for each, share in zip(exits, weigh(exits, scales=scales), strict=True)]
    for _ in range(60):
        noisy = [each._replace(rtt_ms=each.rtt_ms * noise.uniform(0.67, 1.33)) for each in exits]
        assert scales.weigh(noisy, {}) == {}


def test_exit_that_stays_slower_loses_share():
    scales = WeightSmoother()
    fast, slow = candidate(1, WeighBy.LATENCY, rtt_ms=10), candidate(2, WeighBy.LATENCY, rtt_ms=10)
    exits = [fast._replace(share=16), slow._replace(share=16)]
    assert scales.weigh(exits, {}) == {}
    slower = [exits[0], exits[1]._replace(rtt_ms=80)]
    shares = []
    for _ in range(12):
        changed = scales.weigh(slower, {})
        slower[1] = slower[1]._replace(share=changed.get(slow.exit_id, slower[1].share))
        shares.append(slower[1].share)
    assert shares[-1] == 2
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("ratio", [0.0, 1e-9, 1.0])
def test_share_is_between_one_and_the_maximum(ratio):
    assert 1 <= step(1, ratio) <= MAX_SHARE


@given(st.sampled_from([1, 2, 4, 8, 16]), st.floats(0, 1))
def test_share_is_stable_for_the_same_ratio(share, ratio):
    found = step(share, ratio)
    assert step(found, ratio) == found
