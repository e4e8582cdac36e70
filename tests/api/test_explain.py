"""Explanation of requests by the API. tests/envoy checks that gateways behave accordingly."""

from __future__ import annotations

import pytest

DENY = {"deny": {"status": 451, "text": "not here\n"}}


@pytest.fixture
async def declared(demo):
    """Pools us and de, an exit in us without a heartbeat, and a route that denies example.com to staff."""
    calls = [
        ("pools", {"name": "de", "fleet": "demo", "country": "de"}),
        ("users", {"name": "alice", "fleet": "demo", "group": "staff"}),
        (
            "routes",
            {
                "name": "no-example",
                "fleet": "demo",
                "position": 1,
                "match": {"groups": ["staff"], "domains": ["example.com"]},
                "action": DENY,
            },
        ),
        ("listeners", {"name": "de", "fleet": "demo", "address": "127.0.0.1", "port": 8049, "country": "de"}),
    ]
    for name, body in calls:
        assert (await demo("POST", f"/api/v1/{name}", body)).status == 201
    await demo.declare_exit()
    return demo


async def test_explanation_names_deciding_route(declared):
    reply = await declared("GET", "/api/v1/explain?user=alice-country-us&target=https://www.example.com/x")
    explanation = reply.json
    assert explanation["intent"] == {
        "source": "user name",
        "country": "us",
        "city": None,
        "pool": None,
        "session": None,
        "user": "alice",
        "group": "staff",
    }
    assert [(each["name"], each["failed"]) for each in explanation["routes"]] == [("no-example", None)]
    assert explanation["refusal"] == {"status": 451, "text": "not here\n"}
    assert explanation["paths"] == []
    assert explanation["summary"] == "refused with 451, by the route no-example: not here"


async def test_unrouted_request_follows_intent_and_explains_exits(
    declared,
):
    explanation = (await declared("GET", "/api/v1/explain?user=bob-country-us&target=www.example.com:8443")).json
    assert explanation["target"] == {"host": "www.example.com", "port": 8443}
    assert [each["failed"] for each in explanation["routes"]] == ["group"]
    (way,) = explanation["paths"]
    (pool,) = way["pools"]
    assert (pool["name"], [each["reason"] for each in pool["exits"]]) == ("us", ["it is registering"])
    assert explanation["summary"].endswith("none of their exits can serve now, so the client gets 503")


async def test_listener_country_applies_without_client_intent(declared):
    explanation = (await declared("GET", "/api/v1/explain?target=example.org&listener=de")).json
    assert (explanation["intent"]["source"], explanation["intent"]["country"], explanation["listener"]) == (
        "listener",
        "de",
        "de",
    )
    explanation = (await declared("GET", "/api/v1/explain?target=example.org&listener=de&country=us")).json
    assert (explanation["intent"]["source"], explanation["intent"]["country"]) == ("headers", "us")


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("", "invalid", "?target"),
        ("target=http://[", "bad_target", "?target"),
        ("target=x:99999", "bad_target", "?target"),
        ("target=x&fleet=nobody", "unknown_fleet", "?fleet"),
        ("target=x&listener=nobody", "unknown_listener", "?listener"),
        ("target=x&user=%00", "invalid", "?user"),
        ("target=x&at=yesterday", "invalid", "?at"),
        ("target=x&color=red", "invalid", "?color"),
    ],
)
async def test_bad_explain_query_is_refused_by_field(query, code, field, declared):
    reply = await declared("GET", f"/api/v1/explain?{query}")
    assert (reply.status, reply.json["code"], reply.json["errors"][0]["field"]) == (422, code, field)


async def test_explain_requires_fleet_if_there_are_several(declared):
    await declared.declare("other", "other", "us")
    reply = await declared("GET", "/api/v1/explain?target=x")
    assert (reply.status, reply.json["code"]) == (422, "fleet_required")
    assert "demo, other" in reply.json["hint"]
    assert (await declared("GET", "/api/v1/explain?target=x&fleet=other")).json["fleet"] == "other"
