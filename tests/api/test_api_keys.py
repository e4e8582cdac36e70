"""API keys: operators manage their own, with no more rights than the creator has."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

KEYS = "/api/v1/api-keys"
KEY = {"name": "exporter", "role": "viewer"}


@pytest.fixture
async def viewer(api, make_operator):
    return api.holding((await make_operator("vi", "viewer")).key)


async def test_key_is_shown_once_and_authenticates(api, query):
    made = await api("POST", KEYS, KEY | {"scopes": ["fleets:read", "fleets:read"]})
    assert made.status == 201
    assert made.headers["cache-control"] == "no-store"
    key = made.json["key"]
    assert key.startswith("ep-key-")
    assert len(key) == len("ep-key-") + 43
    assert made.json["scopes"] == ["fleets:read"]
    assert (await api.holding(key)("GET", "/api/v1/fleets")).status == 200
    assert (await api.holding(key)("GET", "/api/v1/pools")).status == 403
    shown = await api("GET", made.headers["location"])
    assert shown.json["key"] is None
    assert shown.json["last_used_at"] is not None
    assert shown.headers["etag"] == made.headers["etag"]
    for table in ("api_key", "audit_event", "idempotency"):
        assert key not in str(await query(f"SELECT * FROM {table}"))


async def test_idempotency_key_creates_one_key_and_does_not_store_it(api, query):
    replies = [await api("POST", KEYS, KEY, headers={"idempotency-key": "once"}) for _ in range(2)]
    assert [reply.status for reply in replies] == [201, 201]
    key = replies[0].json["key"]
    assert replies[1].json == replies[0].json | {"key": None}
    assert key not in str(await query("SELECT * FROM idempotency"))
    assert (await api.holding(key)("GET", "/api/v1/fleets")).status == 200
    assert len((await api("GET", KEYS)).json["items"]) == 2


async def test_operators_manage_own_keys_and_global_admins_all(api, viewer):
    made = (await viewer("POST", KEYS, KEY)).json
    assert [each["name"] for each in (await viewer("GET", KEYS)).json["items"]] == ["everything", "exporter"]
    assert len((await api("GET", KEYS)).json["items"]) == 3
    admins = next(each for each in (await api("GET", KEYS)).json["items"] if each["operator_id"] != made["operator_id"])
    for method, body in (("GET", None), ("DELETE", None), ("PATCH", {"name": "mine"})):
        assert (await viewer(method, f"{KEYS}/{admins['id']}", body)).status == 404
    assert (await viewer("PATCH", f"{KEYS}/{made['id']}", {"name": "mine"})).json["name"] == "mine"
    assert (await api("DELETE", f"{KEYS}/{made['id']}")).status == 204
    assert (await api.holding(made["key"])("GET", "/api/v1/fleets")).json["code"] == "bad_api_key"


async def test_fleet_admin_sees_own_keys_only(api, make_operator):
    scoped = api.holding((await make_operator("scoped", fleet_ids=[])).key)
    assert len((await scoped("GET", KEYS)).json["items"]) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "No Name"),
        ("role", "root"),
        ("scopes", ["fleets"]),
        ("scopes", ["fleets:delete"]),
        ("scopes", "fleets:read"),
        ("scopes", ["audit-events:write"]),
        ("expires_at", "2026-01-01T12:00:00Z"),
        ("expires_at", "2027-01-01T12:00:00"),
        ("expires_at", "0001-01-01T00:00:00+14:00"),
        ("expires_at", "9999-12-31T23:59:59-14:00"),
        ("expires_at", 1893456000),
        ("expires_at", "soon"),
        ("fleets", ["nowhere"]),
        ("operator_id", str(UUID(int=1))),
        ("key", "ep-key-mine"),
    ],
)
async def test_invalid_key_field_is_refused(field, value, api):
    reply = await api("POST", KEYS, KEY | {field: value})
    assert (reply.status, reply.is_problem) == (422, True)
    assert reply.json["errors"][0]["field"].startswith(f"/{field}")


async def test_key_name_is_unique_per_operator(api, viewer):
    for mine in (api, viewer):
        assert (await mine("POST", KEYS, KEY)).status == 201
        reply = await mine("POST", KEYS, KEY)
        assert (reply.status, reply.json["code"]) == (409, "duplicate")


async def test_key_expires_at_its_expiry_time(api, clock):
    expires = clock() + timedelta(minutes=1)
    key = (await api("POST", KEYS, KEY | {"expires_at": expires.isoformat()})).json["key"]
    assert (await api.holding(key)("GET", KEYS)).status == 200
    clock.advance(minutes=1)
    assert (await api.holding(key)("GET", KEYS)).json["code"] == "api_key_expired"


async def test_key_cannot_exceed_rights_of_operator(demo, make_operator, query):
    await demo.declare("other", "de", "de")
    ids = {each["name"]: each["id"] for each in (await demo("GET", "/api/v1/fleets")).json["items"]}
    mine = demo.holding((await make_operator("op", "operator", fleet_ids=[ids["demo"]])).key)
    for body, code in (
        ({"role": "admin", "fleets": ["demo"]}, "exceeds_own_rights"),
        ({"role": "viewer"}, "exceeds_own_rights"),
        ({"role": "viewer", "fleets": ["demo", "other"]}, "unknown_fleet"),
        ({"role": "viewer", "fleets": [ids["other"]]}, "unknown_fleet"),
    ):
        reply = await mine("POST", KEYS, KEY | body)
        assert (reply.status, reply.json["code"]) == (422, code), body
    made = await mine("POST", KEYS, KEY | {"role": "operator", "fleets": ["demo"]})
    assert made.status == 201
    for change in ({"role": "admin"}, {"fleets": None}, {"fleets": ["other"]}):
        assert (await mine("PATCH", f"{KEYS}/{made.json['id']}", change)).status == 422


async def test_key_cannot_exceed_rights_of_creating_key(api, clock):
    expires = (clock() + timedelta(days=1)).isoformat()
    body = {"name": "maker", "role": "operator", "scopes": ["api-keys:write", "api-keys:read", "fleets:read"]}
    maker = api.holding((await api("POST", KEYS, body | {"expires_at": expires})).json["key"])
    good = {"name": "made", "role": "operator", "scopes": ["fleets:read"], "expires_at": expires}
    for more in (
        {"role": "admin"},
        {"scopes": None},
        {"scopes": ["pools:read"]},
        {"expires_at": None},
        {"expires_at": (clock() + timedelta(days=2)).isoformat()},
    ):
        reply = await maker("POST", KEYS, good | more)
        assert (reply.status, reply.json["code"]) == (422, "exceeds_own_rights"), more
    assert (await maker("POST", KEYS, good)).status == 201


async def test_expired_key_cannot_be_revived(api, clock):
    made = (await api("POST", KEYS, KEY | {"expires_at": (clock() + timedelta(minutes=1)).isoformat()})).json
    clock.advance(minutes=1)
    for fields in ({"expires_at": None}, {"expires_at": (clock() + timedelta(days=1)).isoformat()}, {"name": "again"}):
        refused = await api("PATCH", f"{KEYS}/{made['id']}", fields)
        assert (refused.status, refused.json["code"]) == (409, "api_key_expired")
    assert (await api.holding(made["key"])("GET", "/api/v1/fleets")).status == 401


async def test_weaker_key_cannot_change_a_stronger_one(api, clock):
    expires = (clock() + timedelta(days=1)).isoformat()
    strong = (await api("POST", KEYS, {"name": "strong", "role": "admin", "expires_at": expires})).json
    body = {"name": "maker", "role": "admin", "scopes": ["api-keys:read", "api-keys:write"], "expires_at": expires}
    maker = api.holding((await api("POST", KEYS, body)).json["key"])
    for fields in ({"expires_at": expires}, {"name": "mine"}, {"role": "viewer"}):
        refused = await maker("PATCH", f"{KEYS}/{strong['id']}", fields)
        assert (refused.status, refused.json["code"]) == (422, "exceeds_own_rights")
    own = {"scopes": ["api-keys:read"], "role": "viewer"}
    assert (await maker("PATCH", f"{KEYS}/{strong['id']}", own)).status == 200


async def test_audit_names_changed_fields_of_key(api, query):
    made = (await api("POST", KEYS, KEY)).json
    await api("PATCH", f"{KEYS}/{made['id']}", {"name": "other"})
    await api("DELETE", f"{KEYS}/{made['id']}")
    rows = await query("SELECT * FROM audit_event ORDER BY sequence")
    assert [(row["action"], row["kind"], row["object_id"], row["detail"]) for row in rows] == [
        ("created", "api-key", made["id"], {"fields": ["name", "role"]}),
        ("changed", "api-key", made["id"], {"fields": ["name"]}),
        ("deleted", "api-key", made["id"], {}),
    ]
    assert "exporter" not in str(rows)
