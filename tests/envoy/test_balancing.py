"""Load balancing of a real gateway among the exits of a pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from uuid import UUID

import pytest

from model.entities import Balancing, Exit, Fleet, Listener, Match, Policy, Pool, Route, ToPools
from model.exit_states import ExitState
from model.world import World, put
from tests.envoy.static_gateway import (
    CLOCK_HEADER,
    exits,
    fetch,
    running,
    static_fleet,
    unused_port,
    with_settable_clock,
)
from xds.translate import names
from xds.translate.encoding import encode
from xds.translate.endpoints import translate_endpoints
from xds.translate.json_view import as_json

pytestmark = [pytest.mark.envoy, pytest.mark.slow]
FLEET = UUID(int=1)
SESSIONS = [f"s{number}" for number in range(20)]
SICK = frozenset({"standby-2", "standby-3", "sick-1", "sick-2"})
"""Exits that failed their checks."""
DYING = "dying-1"
"""A dead exit that no health check has detected yet."""


def make_pool(number: int, name: str, policy: Policy) -> Pool:
    balancing = Balancing(policy, session_ttl_s=60 if name == "brief" else None)
    return Pool(UUID(int=10 + number), FLEET, name, name, only_by_name=True, balancing=balancing)


POOLS = {
    name: make_pool(number, name, policy)
    for number, (name, policy) in enumerate(
        {
            **{f"by-{policy.replace('_', '-')}": policy for policy in Policy},
            "sessions": Policy.SESSION,
            "dying": Policy.SESSION,
            "sick": Policy.SESSION,
            "standby": Policy.LEAST_REQUEST,
            "plain": Policy.LEAST_REQUEST,
            "brief": Policy.SESSION,
        }.items()
    )
}
FALLBACKS = {"first": ("sessions", "sick"), "second": ("sick", "sessions")}
"""Pool and fallback pool by the name of the route."""


def make_exits() -> Iterator[Exit]:
    sizes = {"sessions": 4, "dying": 3, "sick": 2, "standby": 4, "plain": 4, "brief": 4}
    for pool in POOLS.values():
        for number in range(1, sizes.get(pool.name, 2) + 1):
            heavy = pool.name.startswith("by-") and number == 1
            yield Exit(
                UUID(int=pool.id.int * 1000 + number),
                pool.id,
                f"{pool.name}-{number}",
                "127.0.0.1",
                1,
                ExitState.HEALTHY,
                weight=3 if heavy else 1,
                standby=pool.name == "standby" and number == 4,
            )


EXITS = {each.name: each for each in make_exits()}
NAMES = {str(each.id): each.name for each in EXITS.values()}


@pytest.fixture(scope="module")
def ask(tmp_path_factory) -> Iterator[Callable[..., str]]:
    """`ask(pool, session=…)` sends a request and returns the name of its exit."""
    folder = tmp_path_factory.mktemp("gateway")
    listener = Listener(UUID(int=2), FLEET, "127.0.0.1", 0)
    routes = [
        Route(
            UUID(int=21 + place),
            FLEET,
            name,
            place,
            enabled=True,
            match=Match(countries=frozenset({name})),
            action=ToPools(((POOLS[pool].id, 1),), (POOLS[fallback].id,)),
        )
        for place, (name, (pool, fallback)) in enumerate(FALLBACKS.items())
    ]
    world = World().changed(1, map(put, [Fleet(FLEET, "x"), listener, *POOLS.values(), *routes]))
    with ExitStack() as stack:
        ports = stack.enter_context(exits(each.id for each in EXITS.values()))
        hole, ports[EXITS[DYING].id] = unused_port()
        stack.enter_context(hole)
        static = static_fleet(world, FLEET, folder, {})
        for cluster in static["clusters"]:
            if cluster.get("type") == "STATIC":
                cluster["load_assignment"] = assignment(names.pool_of_cluster(cluster["name"]), ports)
        with_settable_clock(static["listeners"])
        gateway = stack.enter_context(running(static, folder))

        def one(pool: str, session: str | None = None, method: str = "GET", now: int | None = None) -> str:
            intent = ("exit-country", pool) if pool in FALLBACKS else ("exit-pool", pool)
            said = [intent, *([("exit-session", session)] if session else [])]
            said += [(CLOCK_HEADER, str(now))] if now else []
            target = "example.com:443" if method == "CONNECT" else "http://example.com/"
            status, body = fetch(gateway.ports["clients"], target, said, method)
            assert status == 200, body
            return NAMES[body]

        yield one


def assignment(pool_id: UUID, ports: dict[UUID, int]) -> dict:
    """Return the endpoints of a pool, with the health that checks would have found."""
    of_pool = [replace(each, port=ports[each.id]) for each in EXITS.values() if each.pool_id == pool_id]
    pool = next(each for each in POOLS.values() if each.id == pool_id)
    told = as_json(names.ENDPOINT, encode(translate_endpoints(pool, of_pool)))
    sick = {ports[EXITS[name].id] for name in SICK}
    for group in told["endpoints"]:
        for each in group["lb_endpoints"]:
            if each["endpoint"]["address"]["socket_address"]["port_value"] in sick:
                each["health_status"] = "UNHEALTHY"
    return told


@pytest.mark.parametrize("policy", [Policy.LEAST_REQUEST, Policy.ROUND_ROBIN, Policy.SESSION])
def test_exits_share_by_weight(ask, policy):
    pool = f"by-{policy.replace('_', '-')}"
    assert 95 < Counter(ask(pool) for _ in range(160))[f"{pool}-1"] < 145


def test_random_policy_ignores_weights(ask):
    assert 50 < Counter(ask("by-random") for _ in range(160))["by-random-1"] < 110


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_session_keeps_its_exit_and_sessions_use_all_exits(ask, method):
    exits_of = {session: {ask("sessions", session, method) for _ in range(3)} for session in SESSIONS}
    assert {len(found) for found in exits_of.values()} == {1}
    # hashes depend on the exits' ports: with 80 sessions no exit stays unused by chance
    assert len({ask("sessions", f"other-{number}", method) for number in range(80)}) == 4


NOW = 1_700_000_000
"""Time of the gateway's script in tests that set it."""


def ends_in_s(session: str, ttl: int) -> int:
    """Return the seconds from NOW until a session with this time to live gets another exit (envoy/client_intent.lua)."""
    offset = 0
    for character in session.encode():
        offset = (offset * 31 + character) % 86_400
    return ttl - (NOW + offset) % ttl


def test_only_session_past_its_time_to_live_changes_exit(ask):
    ends = {name: ends_in_s(name, 60) for name in SESSIONS}
    before = {name: ask("brief", name, now=NOW) for name in SESSIONS}
    assert before == {name: ask("brief", name, now=NOW + ends[name] - 1) for name in SESSIONS}
    assert len({*before.values()}) > 1
    after = {name: ask("brief", name, now=NOW + ends[name]) for name in SESSIONS}
    assert after == {name: ask("brief", name, now=NOW + ends[name] + 59) for name in SESSIONS}
    assert after != before


def test_session_names_are_case_insensitive(ask):
    assert {ask("sessions", session) for session in ("abc", "ABC", "aBc")} == {ask("sessions", "abc")}


def test_requests_without_session_use_all_exits(ask):
    assert len({ask("sessions") for _ in range(60)}) == 4


def test_session_uses_all_exits_under_other_policies(ask):
    assert len({ask("plain", "abc") for _ in range(60)}) == 4


def test_session_with_dead_exit_uses_another(ask):
    found = {ask("dying", session) for session in SESSIONS}
    assert found == {"dying-2", "dying-3"}


def test_session_keeps_exit_in_pool_with_fallback(ask):
    for session in SESSIONS:
        assert ask("first", session) == ask("first", session) == ask("sessions", session)


def test_session_keeps_exit_of_fallback_while_pool_is_empty(ask):
    for session in SESSIONS:
        assert ask("second", session) == ask("sessions", session)


def test_standby_exits_are_unused_while_another_is_healthy(ask):
    """Two of three exits are unhealthy; by default Envoy would send half of the requests to the standby."""
    assert {ask("standby") for _ in range(60)} == {"standby-1"}
