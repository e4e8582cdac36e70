"""What a real gateway makes of clusters that go on from one pool to the next."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from uuid import UUID

import pytest

from model.world import Fleet, Listener, Match, Pool, Route, ToPools, World, put
from tests.envoy.gateways import exits, fetch, running, static_fleet, unused_port

pytestmark = pytest.mark.envoy
FLEET = UUID(int=1)
FIRST, SECOND, THIRD = (Pool(UUID(int=number), FLEET, f"pool-{number}", f"c{number}") for number in (11, 12, 13))
ASKED = [("exit-country", "zz")]


@pytest.fixture
def ask(tmp_path):
    """`ask(action, alive, dead)`: how often which answer comes, with pools whose exits live, die, or are none at all."""
    with ExitStack() as stack:

        def count(action: ToPools, alive: list[Pool], dead: list[Pool] = (), times: int = 40, method="GET") -> Counter:
            route = Route(UUID(int=21), FLEET, "there", 0, enabled=True, match=Match(), action=action)
            listener = Listener(UUID(int=2), FLEET, "127.0.0.1", 0)
            world = World().changed(1, map(put, [Fleet(FLEET, "x"), listener, FIRST, SECOND, THIRD, route]))
            ports = {pool_id: [port] for pool_id, port in stack.enter_context(exits(each.id for each in alive)).items()}
            for pool in dead:
                hole, port = unused_port()
                stack.enter_context(hole)
                ports[pool.id] = [port]
            static = static_fleet(world, FLEET, tmp_path, ports)
            gateway = stack.enter_context(running(static, tmp_path))
            target = "example.com:443" if method == "CONNECT" else "http://example.com/"
            return Counter(fetch(gateway.ports["clients"], target, ASKED, method) for _ in range(times))

        yield count


def weighted(**weights: int) -> tuple[tuple[UUID, int], ...]:
    return tuple(
        (pool.id, weights[name]) for name, pool in (("a", FIRST), ("b", SECOND), ("c", THIRD)) if name in weights
    )


def served_by(pool: Pool) -> tuple[int, str]:
    return 200, str(pool.id)


@pytest.mark.slow
def test_pools_share_by_weight(ask):
    answered = ask(ToPools(weighted(a=3, b=1)), [FIRST, SECOND, THIRD], times=400)
    assert {*answered} == {served_by(FIRST), served_by(SECOND)}
    assert 240 < answered[served_by(FIRST)] < 360


def test_a_pool_without_exits_leaves_its_share_to_the_next(ask):
    assert ask(ToPools(weighted(a=1, b=1), (THIRD.id,)), [SECOND, THIRD]) == {served_by(SECOND): 40}


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT"])
def test_a_pool_whose_exit_just_died_fails_no_request(ask, method):
    """The fallback is tried again for the same request: nothing was sent yet."""
    assert ask(ToPools(weighted(a=1), (SECOND.id,)), [SECOND], [FIRST], method=method) == {served_by(SECOND): 40}


def test_the_fallback_is_used_in_order(ask):
    assert ask(ToPools(weighted(a=1), (THIRD.id, SECOND.id)), [SECOND, THIRD]) == {served_by(THIRD): 40}


def test_the_fallback_is_not_used_while_the_pool_lives(ask):
    assert ask(ToPools(weighted(a=1), (SECOND.id,)), [FIRST, SECOND]) == {served_by(FIRST): 40}


def test_when_no_pool_has_an_exit_the_client_is_told_so(ask):
    ((status, words),) = ask(ToPools(weighted(a=1, b=1), (THIRD.id,)), [], times=4)
    assert status == 503
    assert words == "exitplane: no exit of pool pool-11, pool-12 can carry this request now (UH)\n"


def test_when_all_exits_are_dead_the_client_is_told_so(ask):
    ((status, words),) = ask(ToPools(weighted(a=1), (SECOND.id,)), [], [FIRST, SECOND], times=1)
    assert (status, "exitplane" in words) == (503, True)
