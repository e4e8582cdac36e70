"""Join tokens over the API: they are counted, listed, revoked and audited, and shown once."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from model.entities import Role

TOKENS = "/api/v1/join-tokens"
EXIT = {"fleet": "demo", "role": "exit"}


@pytest.fixture
def actions(demo):
    """`await actions()`: the audit entries of join tokens, oldest first, as (action, detail)."""

    async def read():
        found = (await demo("GET", "/api/v1/audit-events?kind=join-token")).json["items"]
        return [(each["action"], each["detail"]) for each in sorted(found, key=lambda each: each["sequence"])]

    return read


async def test_token_is_shown_once_and_is_for_one_proxy_within_an_hour(demo, clock, admin, query):
    made = (await demo("POST", TOKENS, EXIT)).json
    secret = made.pop("token")
    assert (made["name"], made["uses"], made["uses_left"], made["created_by"]) == ("exit", 1, 1, str(admin.id))
    assert made["expires_at"] == (clock() + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    (listed,) = (await demo("GET", TOKENS)).json["items"]
    assert listed == made | {"token": None}
    assert secret not in str(await query("SELECT * FROM join_token"))
    assert secret not in str(await query("SELECT * FROM audit_event"))


async def test_last_use_is_won_by_exactly_one_of_many(demo, make_proxy, make_token, stored, query):
    token = await make_token(Role.EXIT, uses=1)
    proxies = [make_proxy(Role.EXIT) for _ in range(5)]
    replies = await asyncio.gather(*(each.enrol(token, f"us-{n}") for n, each in enumerate(proxies)))
    assert Counter(reply.status for reply in replies) == {201: 1, 409: 4}
    assert {reply.json["code"] for reply in replies if reply.status == 409} == {"join_token_used_up"}
    after = await stored()
    assert (after["exit"], after["proxy"], after["certificate"]) == (1, 1, 1)
    assert [row["used"] for row in await query("SELECT used FROM join_token")] == [1]


async def test_used_up_token_still_answers_the_key_that_used_it(demo, make_proxy, make_token, query):
    """The agent repeats its registration when the reply was lost."""
    token = await make_token(Role.GATEWAY, uses=1)
    proxy = make_proxy(Role.GATEWAY)
    assert [(await proxy.enrol(token)).status for _ in range(2)] == [201, 201]
    assert [row["used"] for row in await query("SELECT used FROM join_token")] == [1]


async def test_revoked_token_is_refused_and_each_state_is_listed(demo, make_proxy, clock):
    made = (await demo("POST", TOKENS, EXIT)).json
    assert (await demo("DELETE", f"{TOKENS}/{made['id']}")).status == 204
    assert (await demo("DELETE", f"{TOKENS}/{made['id']}")).status == 204
    reply = await make_proxy(Role.EXIT).enrol(made["token"])
    assert (reply.status, reply.json["code"]) == (401, "join_token_revoked")
    assert "exitplane token create" in reply.json["hint"]
    (listed,) = (await demo("GET", TOKENS)).json["items"]
    assert (listed["state"], listed["revoked_at"] is not None) == ("revoked", True)
    clock.advance(hours=1)
    spent = (await demo("POST", TOKENS, EXIT)).json
    await make_proxy(Role.EXIT).enrol(spent["token"])
    await demo("POST", TOKENS, EXIT | {"expires_in_s": 1})
    clock.advance(seconds=2)
    await demo("POST", TOKENS, EXIT)
    states = [each["state"] for each in (await demo("GET", f"{TOKENS}?sort=created_at")).json["items"]]
    assert sorted(states) == ["expired", "revoked", "used-up", "valid"]


async def test_life_of_a_token_is_in_the_audit(demo, make_proxy, actions, clock):
    made = (await demo("POST", TOKENS, EXIT | {"name": "rack-2", "uses": 2})).json
    proxy = make_proxy(Role.EXIT)
    await proxy.enrol(made["token"], "us-1")
    await demo("DELETE", f"{TOKENS}/{made['id']}")
    for _ in range(3):  # one refusal in a minute is enough
        await make_proxy(Role.EXIT).enrol(made["token"], "us-2")
    clock.advance(minutes=2)
    await make_proxy(Role.EXIT).enrol(made["token"], "us-3")
    created, used, revoked, *refused = await actions()
    assert (created[0], created[1]["name"], created[1]["uses"]) == ("created", "rack-2", 2)
    assert used == ("used", {"proxy": "us-1", "proxy_id": proxy.id, "address": "203.0.113.9"})
    assert revoked == ("revoked", {"name": "rack-2"})
    assert refused == [
        ("refused", {"code": "join_token_revoked", "proxy": name, "address": "203.0.113.9"})
        for name in ("us-2", "us-3")
    ]
    (listed,) = (await demo("GET", TOKENS)).json["items"]
    assert (listed["last_used_by"], listed["uses_left"]) == ("us-1", 1)


async def test_takeover_is_in_the_audit(demo, make_proxy, exit_proxy, actions):
    made = (await demo("POST", TOKENS, EXIT | {"proxy": "one", "takes_over": True})).json
    assert (await make_proxy(Role.EXIT).enrol(made["token"])).status == 201
    assert (await actions())[-1][0] == "takeover"


async def test_unknown_token_learns_nothing_about_names(demo, exit_proxy, make_proxy):
    replies = [await make_proxy(Role.EXIT).enrol("ep-exit-guess", name) for name in ("one", "two")]
    assert [reply.status for reply in replies] == [401, 401]
    assert replies[0].json == replies[1].json


async def test_token_of_release_0_1_0_is_unknown(demo, make_proxy, make_token, query):
    token = await make_token(Role.EXIT)
    await query("UPDATE join_token SET id = NULL")
    reply = await make_proxy(Role.EXIT).enrol(token)
    assert (reply.status, reply.json["code"]) == (401, "bad_join_token")
    assert (await demo("GET", TOKENS)).json["items"] == []


async def test_operator_of_one_fleet_has_tokens_of_that_fleet_only(demo, make_operator):
    await demo.declare("other", "elsewhere", "de")
    fleets = {each["name"]: each["id"] for each in (await demo("GET", "/api/v1/fleets")).json["items"]}
    mine = demo.holding((await make_operator("op", "operator", fleet_ids=[fleets["demo"]])).key)
    foreign = (await demo("POST", TOKENS, {"fleet": "other", "role": "exit"})).json["id"]
    assert (await mine("POST", TOKENS, EXIT)).status == 201
    assert (await mine("POST", TOKENS, {"fleet": "other", "role": "exit"})).json["code"] == "unknown_fleet"
    assert (await mine("DELETE", f"{TOKENS}/{foreign}")).status == 404
    assert [each["fleet"] for each in (await mine("GET", TOKENS)).json["items"]] == ["demo"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"uses": 0}, "/uses"),
        ({"expires_in_s": 31 * 86_400}, "/expires_in_s"),
        ({"role": "operator"}, "/role"),
        ({"takes_over": True}, ""),
        ({"takes_over": True, "proxy": "one", "uses": 2}, ""),
        ({"takes_over": True, "proxy": "one", "uses": None}, ""),
        ({"proxy": "A"}, "/proxy"),
    ],
)
async def test_bad_field_of_a_token_is_named(change, field, demo, stored):
    before = await stored()
    reply = await demo("POST", TOKENS, EXIT | change)
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, field)
    assert reply.json["hint"]
    assert await stored() == before
