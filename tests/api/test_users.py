"""Users of gateways: their secrets, which are shown once, and what the World has of them."""

from __future__ import annotations

import pytest

from model.entities import Authentication, UserSecret
from model.repositories import worlds
from model.user_secrets import store_secret

USERS, LISTENERS = "/api/v1/users", "/api/v1/listeners"
ALICE = f"{USERS}/alice"


@pytest.fixture
async def alice(demo):
    return (await demo("POST", USERS, {"name": "alice", "fleet": "demo"})).json


@pytest.fixture
def secret(demo, alice):
    """`await secret()`: create a secret of alice, and return the reply's body."""

    async def create():
        reply = await demo("POST", f"{ALICE}/secrets")
        assert reply.status == 201, reply.json
        return reply.json

    return create


async def test_secret_is_shown_once_and_stored_as_a_hash(demo, secret, alice, query, database):
    made = await secret()
    text = made["secret"]
    assert (len(text), text[0], made["id"]) == (27, "a", "a")
    (listed,) = (await demo("GET", ALICE)).json["secrets"]
    assert listed == made | {"secret": None}
    for table in ("user_account", "audit_event", "idempotency"):
        rows = str(await query(f"SELECT * FROM {table}"))
        assert text not in rows
        assert table == "user_account" or store_secret(text).digest not in rows
    (user,) = (await worlds.load(database)).users.values()
    assert user.secrets == (store_secret(text),)


async def test_user_has_two_secrets_at_most_and_each_is_revoked_alone(demo, secret, database):
    first, second = await secret(), await secret()
    assert (first["id"], second["id"]) == ("a", "b")
    refused = await demo("POST", f"{ALICE}/secrets")
    assert (refused.status, refused.json["code"]) == (409, "too_many_secrets")
    assert refused.json["hint"].endswith("/secrets/a is the older one")
    assert (await demo("DELETE", f"{ALICE}/secrets/a")).status == 204
    assert (await demo("DELETE", f"{ALICE}/secrets/a")).status == 404
    assert (await secret())["id"] == "c"
    (user,) = (await worlds.load(database)).users.values()
    assert [each.slot for each in user.secrets] == ["b", "c"]


async def test_dry_run_makes_no_secret(demo, alice):
    reply = await demo("POST", f"{ALICE}/secrets?dry_run=true")
    assert (reply.status, "secret" in reply.json) == (200, False)
    assert (await demo("GET", ALICE)).json["secrets"] == []


async def test_world_has_what_gateways_need_of_a_user(demo, alice, database):
    change = {"enabled": False, "expires_at": "2030-01-01T00:00:00Z"}
    assert (await demo("PATCH", ALICE, change)).json.items() >= change.items()
    (user,) = (await worlds.load(database)).users.values()
    assert (user.enabled, user.expires_at, user.secrets) == (False, 1_893_456_000, ())


async def test_only_listener_that_authenticates_binds_beyond_loopback(demo, database):
    listener = {"name": "public", "fleet": "demo", "address": "0.0.0.0", "port": 8090}
    refused = await demo("POST", LISTENERS, listener)
    assert (refused.status, refused.json["code"]) == (422, "not_loopback")
    assert (await demo("POST", LISTENERS, listener | {"authentication": ["basic"]})).status == 201
    weakened = await demo("PATCH", f"{LISTENERS}/public", {"authentication": []})
    assert (weakened.status, weakened.json["errors"][0]["field"]) == (422, "/address")
    found = {each.name: each.authentication for each in (await worlds.load(database)).listeners.values()}
    assert found == {"clients": frozenset(), "public": {Authentication.BASIC}}


def test_hash_of_a_secret_is_not_shown_by_accident():
    assert "digest" not in repr(UserSecret("a", "digest"))
