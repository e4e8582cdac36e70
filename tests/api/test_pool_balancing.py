"""Balancing and resilience of pools, and weight, standby, capacity and cost of exits."""

from __future__ import annotations

from typing import get_args

import pytest

from api.features.pools.schemas import BalancingIn, ResilienceIn
from model.entities import BALANCING, RESILIENCE, Balancing, Policy, Resilience, WeighBy
from model.repositories import worlds

pytestmark = pytest.mark.postgres
DEFAULT_BALANCING = {"policy": "least_request", "weigh_by": None, "session_ttl_s": None}
DEFAULT_RESILIENCE = {
    "panic_threshold_percent": 0,
    "check_interval_s": 1,
    "check_timeout_s": 1,
    "unhealthy_after": 2,
    "healthy_after": 1,
    "degraded_above_ms": None,
    "flap_threshold": 5,
    "flap_window_s": 600,
    "hold_down_s": 60,
}
POOL = {"name": "de", "fleet": "demo", "country": "de"}
LARGEST = {
    "panic_threshold_percent": 100,
    "check_interval_s": 600,
    "check_timeout_s": 60,
    "unhealthy_after": 100,
    "healthy_after": 100,
    "degraded_above_ms": 60_000,
    "flap_threshold": 1_000,
    "flap_window_s": 86_400,
    "hold_down_s": 3_600,
}
_FROM_ZERO = {"panic_threshold_percent", "flap_threshold", "hold_down_s"}
SMALLEST = {name: 0 if name in _FROM_ZERO else 1 for name in LARGEST}


async def world_of(api):
    return await worlds.load(api.context.database)


async def pool_of(api, name):
    return next(each for each in (await world_of(api)).pools.values() if each.name == name)


def test_api_and_world_have_same_defaults_and_policies():
    assert (
        BalancingIn().model_dump()
        == {name: getattr(BALANCING, name) for name in DEFAULT_BALANCING}
        == DEFAULT_BALANCING
    )
    assert (
        ResilienceIn().model_dump()
        == {name: getattr(RESILIENCE, name) for name in DEFAULT_RESILIENCE}
        == DEFAULT_RESILIENCE
    )
    assert set(get_args(BalancingIn.model_fields["policy"].annotation)) == set(Policy)
    literal, _ = get_args(BalancingIn.model_fields["weigh_by"].annotation)
    assert set(get_args(literal)) == set(WeighBy)


async def test_new_pool_does_not_offer_unverified_exits(demo):
    created = await demo("POST", "/api/v1/pools", POOL)
    assert created.json["allow_unverified"] is False
    changed = await demo("PATCH", "/api/v1/pools/de", {"allow_unverified": True})
    assert (changed.status, changed.json["allow_unverified"]) == (200, True)


async def test_pool_shows_defaults_in_full(demo):
    shown = (await demo("GET", "/api/v1/pools/us")).json
    assert (shown["balancing"], shown["resilience"]) == (DEFAULT_BALANCING, DEFAULT_RESILIENCE)
    assert (await pool_of(demo, "us")).resilience is RESILIENCE


@pytest.mark.parametrize("policy", Policy)
async def test_pool_is_created_with_policy(demo, policy):
    reply = await demo("POST", "/api/v1/pools", POOL | {"balancing": {"policy": policy}})
    assert (reply.status, reply.json["balancing"]) == (201, DEFAULT_BALANCING | {"policy": policy})
    assert (await demo("GET", "/api/v1/pools/de")).json == reply.json
    assert (await pool_of(demo, "de")).balancing == Balancing(policy)


@pytest.mark.parametrize("bounds", [SMALLEST, LARGEST])
async def test_resilience_accepts_its_bounds(demo, bounds):
    reply = await demo("POST", "/api/v1/pools", POOL | {"resilience": bounds})
    assert (reply.status, reply.json["resilience"]) == (201, bounds)
    assert (await pool_of(demo, "de")).resilience == Resilience(**bounds)


async def test_resilience_stored_by_previous_release_is_shown(demo, query):
    await query("""UPDATE pool SET resilience = '{"falls_borne": 2, "falls_window_s": 60}' RETURNING id""")
    shown = (await demo("GET", "/api/v1/pools/us")).json["resilience"]
    assert shown == DEFAULT_RESILIENCE | {"flap_threshold": 2, "flap_window_s": 60}


async def test_patch_replaces_whole_objects_and_keeps_the_rest(demo):
    first = {"balancing": {"policy": "random"}, "resilience": {"unhealthy_after": 9, "healthy_after": 4}}
    assert (await demo("PATCH", "/api/v1/pools/us", first)).json["resilience"] == DEFAULT_RESILIENCE | first[
        "resilience"
    ]
    shown = (await demo("PATCH", "/api/v1/pools/us", {"resilience": {"check_interval_s": 7}})).json
    assert shown["resilience"] == DEFAULT_RESILIENCE | {"check_interval_s": 7}
    assert shown["balancing"] == DEFAULT_BALANCING | {"policy": "random"}


async def test_put_without_objects_restores_defaults(demo):
    await demo("PATCH", "/api/v1/pools/us", {"balancing": {"policy": "random"}, "resilience": {"healthy_after": 4}})
    shown = (await demo("PUT", "/api/v1/pools/us", {"name": "us", "fleet": "demo", "country": "us"})).json
    assert (shown["balancing"], shown["resilience"]) == (DEFAULT_BALANCING, DEFAULT_RESILIENCE)


async def test_explicit_defaults_equal_omitted_fields(demo, stored, query):
    before, shown = await stored(), await demo("GET", "/api/v1/pools/us")
    for fields in (
        {"resilience": {}},
        {"resilience": DEFAULT_RESILIENCE},
        {"balancing": {}},
        {"balancing": DEFAULT_BALANCING},
    ):
        reply = await demo("PATCH", "/api/v1/pools/us", fields)
        assert (reply.json, reply.headers["etag"]) == (shown.json, shown.headers["etag"])
    assert await stored() == before
    (row,) = await query("SELECT balancing, resilience FROM pool")
    assert (row["balancing"], row["resilience"]) == ({}, {})


async def test_changed_pool_reaches_advanced_world(demo):
    before = await world_of(demo)
    await demo("PATCH", "/api/v1/pools/us", {"balancing": {"policy": "session"}, "resilience": {"healthy_after": 4}})
    after, _ = await worlds.catch_up(demo.context.database, before)
    (pool,) = after.pools.values()
    assert (pool.balancing, pool.resilience) == (Balancing(Policy.SESSION), Resilience(healthy_after=4))


async def test_weight_and_standby_are_set_read_and_changed(demo):
    made = await demo.declare_exit(weight=128, standby=True)
    assert (made["weight"], made["standby"]) == (128, True)
    (seen,) = (await world_of(demo)).exits.values()
    assert (seen.weight, seen.standby) == (128, True)
    before = await world_of(demo)
    shown = (await demo("PATCH", f"/api/v1/exits/{made['id']}", {"weight": 3})).json
    assert (shown["weight"], shown["standby"]) == (3, True)
    shown = (await demo("PATCH", f"/api/v1/exits/{made['id']}", {"standby": False})).json
    assert (shown["weight"], shown["standby"]) == (3, False)
    after, _ = await worlds.catch_up(demo.context.database, before)
    (seen,) = after.exits.values()
    assert (seen.weight, seen.standby) == (3, False)


async def test_exit_defaults_to_weight_one_and_no_standby(demo):
    made = await demo.declare_exit()
    assert (made["weight"], made["standby"]) == (1, False)


async def test_exported_balancing_applies_without_steps(demo):
    await demo("PATCH", "/api/v1/pools/us", {"balancing": {"policy": "session"}, "resilience": {"healthy_after": 4}})
    await demo.declare_exit(weight=3, standby=True)
    document = (await demo("GET", "/api/v1/declared")).json
    (pool,), (exit_,) = document["pools"], document["exits"]
    assert (pool["balancing"], pool["resilience"]) == (
        DEFAULT_BALANCING | {"policy": "session"},
        DEFAULT_RESILIENCE | {"healthy_after": 4},
    )
    assert (exit_["weight"], exit_["standby"]) == (3, True)
    assert (await demo("PUT", "/api/v1/declared", document)).json["steps"] == []


async def test_document_changes_balancing_and_reports_the_change(demo):
    payload = {"name": "us", "fleet": "demo", "country": "us", "balancing": {"policy": "random"}}
    (step,) = (await demo("PUT", "/api/v1/declared", {"pools": [payload]})).json["steps"]
    assert step["changes"] == {"balancing": [DEFAULT_BALANCING, DEFAULT_BALANCING | {"policy": "random"}]}


async def test_explain_lists_standby_exits_last(demo):
    await demo.declare_exit(standby=True)
    await demo.declare_exit(name="us-2")
    explanation = (await demo("GET", "/api/v1/explain?country=us&target=example.com")).json
    seen = [(each["name"], each["standby"]) for each in explanation["paths"][0]["pools"][0]["exits"]]
    assert seen == [("us-2", False), ("us-1", True)]


WRONG_POOLS = {
    "no object to share by": ({"balancing": "session"}, "/balancing"),
    "nothing to share by": ({"balancing": None}, "/balancing"),
    "no resilience": ({"resilience": None}, "/resilience"),
    "an unknown policy": ({"balancing": {"policy": "fastest"}}, "/balancing/policy"),
    "a policy of another case": ({"balancing": {"policy": "SESSION"}}, "/balancing/policy"),
    "no policy at all": ({"balancing": {"policy": None}}, "/balancing/policy"),
    "a time to live of sessions": ({"balancing": {"session_ttl_s": 5}}, "/balancing/session_ttl_s"),
    "unknown resilience field": ({"resilience": {"retries": 5}}, "/resilience/retries"),
    "an ejection, which a client could cause": (
        {"resilience": {"failures_to_eject": 3}},
        "/resilience/failures_to_eject",
    ),
    **{
        f"{name}: {value!r}": ({"resilience": {name: value}}, f"/resilience/{name}")
        for name, largest in LARGEST.items()
        for value in (SMALLEST[name] - 1, largest + 1, 1.5, "1", True, None)
        if (name, value) != ("degraded_above_ms", None)
    },
}


async def test_bad_balancing_or_resilience_is_refused(demo, stored):
    before = await stored()
    for case, (fields, field) in WRONG_POOLS.items():
        for method, path, payload in (("POST", "pools", POOL | fields), ("PATCH", "pools/us", fields)):
            reply = await demo(method, f"/api/v1/{path}", payload)
            assert (reply.status, reply.is_problem) == (422, True), case
            assert [each["field"] for each in reply.json["errors"]] == [field], case
    assert await stored() == before


WRONG_EXITS = {
    **{f"a weight of {value!r}": ({"weight": value}, "/weight") for value in (0, -1, 129, 1.5, "1", True, None)},
    **{f"standby: {value!r}": ({"standby": value}, "/standby") for value in (0, "false", None)},
}


async def test_bad_weight_or_standby_is_refused(demo, stored):
    made = await demo.declare_exit()
    before = await stored()
    payload = {"name": "us-2", "pool": "us", "address": "198.51.100.7", "port": 8443}
    for case, (fields, field) in WRONG_EXITS.items():
        for method, path, body in (("POST", "exits", payload | fields), ("PATCH", f"exits/{made['id']}", fields)):
            reply = await demo(method, f"/api/v1/{path}", body)
            assert (reply.status, reply.is_problem) == (422, True), case
            assert [each["field"] for each in reply.json["errors"]] == [field], case
    assert await stored() == before


async def test_weigh_by_and_session_ttl_are_set_and_read(demo):
    fields = {"policy": "session", "weigh_by": "cost", "session_ttl_s": 600}
    shown = (await demo("PATCH", "/api/v1/pools/us", {"balancing": fields})).json
    assert shown["balancing"] == fields
    assert (await pool_of(demo, "us")).balancing == Balancing(Policy.SESSION, WeighBy.COST, 600)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"weigh_by": "luck"}, "/balancing/weigh_by"),
        ({"policy": "session", "session_ttl_s": 61}, "/balancing/session_ttl_s"),
        ({"session_ttl_s": 60}, "/balancing"),
    ],
)
async def test_bad_weigh_by_is_refused(demo, fields, field):
    reply = await demo("PATCH", "/api/v1/pools/us", {"balancing": fields})
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, field)


async def test_capacity_cost_and_cap_are_set_read_and_changed(demo):
    made = await demo.declare_exit(capacity=50, cost=1.5, monthly_cap_gb=100)
    assert (made["capacity"], made["cost"], made["monthly_cap_gb"]) == (50, 1.5, 100)
    shown = (await demo("PATCH", f"/api/v1/exits/{made['id']}", {"capacity": None, "cost": 2})).json
    assert (shown["capacity"], shown["cost"], shown["monthly_cap_gb"]) == (None, 2, 100)


@pytest.mark.parametrize(
    "fields", [{"capacity": 0}, {"cost": 0}, {"cost": -1}, {"monthly_cap_gb": 0}, {"cost": "cheap"}]
)
async def test_impossible_exit_amounts_are_refused(demo, fields):
    made = await demo.declare_exit()
    assert (await demo("PATCH", f"/api/v1/exits/{made['id']}", fields)).status == 422


async def test_computed_share_multiplies_declared_weight(demo, query):
    await demo.declare_exit(weight=3)
    await query("UPDATE exit SET share = 8 RETURNING id")
    (seen,) = (await world_of(demo)).exits.values()
    assert seen.weight == 24
