"""The collection of operators."""

from __future__ import annotations

import asyncio

import pytest

OPERATORS, LOGIN = "/api/v1/operators", "/api/v1/auth/login"
PASSWORD = "correct horse battery"
ADA = {"name": "ada", "role": "operator", "password": PASSWORD}


@pytest.fixture
def audited(query):
    """`await audited()`: action and detail of the audit events about operators, oldest first."""

    async def run():
        rows = await query("SELECT action, detail FROM audit_event WHERE kind = 'operator' ORDER BY sequence")
        return [(row["action"], row["detail"]) for row in rows]

    return run


async def test_operator_is_created_and_shown_without_secrets(api):
    made = await api("POST", OPERATORS, ADA)
    assert made.status == 201
    assert made.headers["location"] == f"{OPERATORS}/{made.json['id']}"
    assert {name: made.json[name] for name in ("name", "role", "fleets", "disabled", "has_password", "has_totp")} == {
        "name": "ada",
        "role": "operator",
        "fleets": None,
        "disabled": False,
        "has_password": True,
        "has_totp": False,
    }
    assert not any("hash" in name or name == "password" for name in made.json)
    for ref in ("ada", made.json["id"]):
        assert (await api("GET", f"{OPERATORS}/{ref}")).json == made.json
    assert [each["name"] for each in (await api("GET", OPERATORS)).json["items"]] == ["ada", "admin"]
    assert (await api.anonymous("POST", LOGIN, {"name": "ada", "password": PASSWORD})).status == 200


async def test_writing_operators_makes_no_revision(api, stored):
    before = await stored()
    await api("POST", OPERATORS, ADA)
    await api("PATCH", f"{OPERATORS}/ada", {"role": "viewer"})
    await api("DELETE", f"{OPERATORS}/ada")
    assert await stored() == before


async def test_operators_are_filtered(api, make_operator):
    await make_operator("ada", "operator")
    await make_operator("adam", "viewer", disabled=True)
    for query, names in (
        ("name=ad*", ["ada", "adam", "admin"]),
        ("role=viewer", ["adam"]),
        ("disabled=false", ["ada", "admin"]),
        ("sort=-name&limit=1", ["admin"]),
    ):
        reply = await api("GET", f"{OPERATORS}?{query}")
        assert [each["name"] for each in reply.json["items"]] == names, query


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Ada"),
        ("name", None),
        ("role", "root"),
        ("password", "too short"),
        ("password", "x" * 257),
        ("password", 5),
        ("password", "\ud800" * 12),
        ("fleets", ["nowhere"]),
        ("fleets", "demo"),
        ("oidc_subject", "no-issuer"),
        ("oidc_subject", "https://login.example.net#"),
        ("oidc_subject", "https://login.example.net#a\u0000b"),
        ("disabled", "no"),
        ("password_hash", "x"),
    ],
)
async def test_invalid_operator_field_is_refused(field, value, api, query):
    reply = await api("POST", OPERATORS, ADA | {field: value})
    assert (reply.status, reply.is_problem) == (422, True)
    assert reply.json["errors"][0]["field"].startswith(f"/{field}")
    if field == "password":
        assert reply.json["errors"][0]["value"] is None
    assert len(await query("SELECT id FROM operator")) == 1


async def test_password_must_differ_from_name(api):
    reply = await api(
        "POST", OPERATORS, {"name": "a-long-name-indeed", "role": "admin", "password": "A-Long-Name-Indeed"}
    )
    assert (reply.status, reply.json["code"]) == (422, "weak_password")


async def test_names_and_oidc_accounts_are_unique(api, make_operator):
    account = "https://login.example.net#1"
    await make_operator("ada", oidc_subject=account)
    await make_operator("eve")
    for field, value in (("name", "ada"), ("oidc_subject", account)):
        for reply in (
            await api("POST", OPERATORS, ADA | {"name": "new", field: value}),
            await api("PATCH", f"{OPERATORS}/eve", {field: value}),
        ):
            assert (reply.status, reply.json["code"]) == (409, "duplicate")
            assert reply.json["errors"][0]["field"] == f"/{field}"


async def test_fleets_are_given_by_name_or_id(demo):
    await demo.declare("other", "de", "de")
    ids = {each["name"]: each["id"] for each in (await demo("GET", "/api/v1/fleets")).json["items"]}
    reply = await demo("POST", OPERATORS, ADA | {"fleets": ["demo", ids["other"], "demo"]})
    assert sorted(reply.json["fleets"]) == sorted(ids.values())
    assert (await demo("PATCH", f"{OPERATORS}/ada", {"fleets": []})).json["fleets"] == []
    assert (await demo("PATCH", f"{OPERATORS}/ada", {"fleets": None})).json["fleets"] is None


async def test_patch_keeps_other_fields_and_put_keeps_only_password(api, make_operator):
    await api("POST", OPERATORS, ADA | {"oidc_subject": "https://login.example.net#1"})
    changed = (await api("PATCH", f"{OPERATORS}/ada", {"role": "viewer"})).json
    assert (changed["role"], changed["oidc_subject"]) == ("viewer", "https://login.example.net#1")
    replaced = (await api("PUT", f"{OPERATORS}/ada", {"name": "ada", "role": "viewer"})).json
    assert (replaced["oidc_subject"], replaced["has_password"]) == (None, True)
    assert (await api.anonymous("POST", LOGIN, {"name": "ada", "password": PASSWORD})).status == 200
    assert not (await api("PATCH", f"{OPERATORS}/ada", {"password": None})).json["has_password"]


async def test_stale_etag_refuses_change(api, make_operator):
    await make_operator("ada", password=PASSWORD)
    etag = (await api("GET", f"{OPERATORS}/ada")).headers["etag"]
    await api.anonymous("POST", LOGIN, {"name": "ada", "password": PASSWORD})
    first = await api("PATCH", f"{OPERATORS}/ada", {"role": "viewer"}, headers={"if-match": etag})
    assert first.status == 200  # a login does not change the ETag
    second = await api("PATCH", f"{OPERATORS}/ada", {"role": "admin"}, headers={"if-match": etag})
    assert second.status == 412


async def test_password_set_by_admin_ends_sessions(api, make_operator):
    await make_operator("ada", password=PASSWORD)
    token = (await api.anonymous("POST", LOGIN, {"name": "ada", "password": PASSWORD})).json["access_token"]
    assert (await api("PATCH", f"{OPERATORS}/ada", {"password": "staple battery horse"})).status == 200
    assert (await api.holding(token)("GET", "/api/v1/auth/me")).json["code"] == "session_ended"


async def test_disabling_ends_sessions(api, make_operator):
    await make_operator("ada", password=PASSWORD)
    token = (await api.anonymous("POST", LOGIN, {"name": "ada", "password": PASSWORD})).json["access_token"]
    for disabled in (True, False):
        assert (await api("PATCH", f"{OPERATORS}/ada", {"disabled": disabled})).status == 200
    assert (await api.holding(token)("GET", "/api/v1/auth/me")).json["code"] == "session_ended"


async def test_changed_rights_apply_at_once(api, make_operator):
    ada = await make_operator("ada", "viewer", password=PASSWORD)
    token = (await api.anonymous("POST", LOGIN, {"name": "ada", "password": PASSWORD})).json["access_token"]
    for credential in (token, ada.key):
        assert (await api.holding(credential)("POST", "/api/v1/fleets", {})).status == 403
    await api("PATCH", f"{OPERATORS}/ada", {"role": "operator"})
    for credential in (token, ada.key):
        assert (await api.holding(credential)("POST", "/api/v1/fleets", {})).status == 422
    await api("DELETE", f"{OPERATORS}/ada")
    assert (await api.holding(token)("GET", "/api/v1/fleets")).json["code"] == "session_ended"
    assert (await api.holding(ada.key)("GET", "/api/v1/fleets")).json["code"] == "bad_api_key"


@pytest.mark.parametrize("change", [{"role": "operator"}, {"disabled": True}, {"fleets": []}])
async def test_last_admin_cannot_be_removed(change, api, make_operator):
    await make_operator("other", disabled=True)
    await make_operator("scoped", fleet_ids=[])
    await make_operator("op", "operator")
    for reply in (await api("PATCH", f"{OPERATORS}/admin", change), await api("DELETE", f"{OPERATORS}/admin")):
        assert (reply.status, reply.json["code"]) == (409, "last_admin")
    await make_operator("second")
    assert (await api("PATCH", f"{OPERATORS}/admin", change)).status == 200


async def test_admins_removing_each_other_do_not_both_succeed(api, make_operator):
    other = await make_operator("other")
    replies = await asyncio.gather(
        api("DELETE", f"{OPERATORS}/other"), api.holding(other.key)("DELETE", f"{OPERATORS}/admin")
    )
    assert sorted(reply.status for reply in replies) in ([204, 409], [204, 401])


async def test_only_global_admins_see_operators(api, make_operator):
    for number, fields in enumerate(({"role": "operator"}, {"role": "viewer"}, {"role": "admin", "fleet_ids": []})):
        mine = api.holding((await make_operator(f"op-{number}", **fields)).key)
        for method, path in (
            ("GET", OPERATORS),
            ("POST", OPERATORS),
            ("GET", f"{OPERATORS}/admin"),
            ("DELETE", f"{OPERATORS}/admin"),
        ):
            assert (await mine(method, path, ADA if method == "POST" else None)).status == 403


async def test_audit_names_fields_without_personal_data(api, audited, query):
    account = "https://login.example.net#ada-account"
    await api("POST", OPERATORS, ADA | {"name": "byron", "oidc_subject": account})
    await api("PATCH", f"{OPERATORS}/byron", {"name": "lovelace", "role": "operator"})
    await api("PATCH", f"{OPERATORS}/lovelace", {"password": "staple battery horse"})
    await api("PATCH", f"{OPERATORS}/lovelace", {"role": "operator"})  # no change, so no audit event
    await api("DELETE", f"{OPERATORS}/lovelace")
    assert await audited() == [
        ("created", {"fields": ["name", "oidc_subject", "password_hash", "role"]}),
        ("changed", {"fields": ["name"]}),
        ("changed", {"fields": ["password_hash"]}),
        ("deleted", {}),
    ]
    everything = str(await query("SELECT * FROM audit_event"))
    assert not any(secret in everything for secret in ("byron", "lovelace", account, "argon2", "battery"))


async def test_deleting_operator_deletes_all_their_data(api, query):
    names = ("lovelace", "lovelace-2")
    bodies = [ADA | {"name": name} for name in names]
    made = await api("POST", OPERATORS, bodies[0], headers={"idempotency-key": "k-1"})
    await api("POST", f"{OPERATORS}/bulk", {"create": bodies[1:]}, headers={"idempotency-key": "k-2"})
    for name in names:
        await api.anonymous("POST", LOGIN, {"name": name, "password": PASSWORD})
        assert (await api("DELETE", f"{OPERATORS}/{name}")).status == 204
    for table in ("operator", "session", "api_key", "idempotency", "throttle", "audit_event", "change"):
        assert "lovelace" not in str(await query(f"SELECT * FROM {table}")), table
    assert made.json["id"] in str(await query("SELECT * FROM audit_event"))


async def test_dry_run_creates_no_operator(api, query):
    reply = await api("POST", f"{OPERATORS}?dry_run=true", ADA)
    assert (reply.status, reply.json["status"], reply.json["body"]["name"]) == (200, 201, "ada")
    assert len(await query("SELECT id FROM operator")) == 1
    assert await query("SELECT * FROM audit_event") == []


async def test_idempotency_key_creates_one_operator_and_audit_entry(api, audited):
    replies = [await api("POST", OPERATORS, ADA, headers={"idempotency-key": "once"}) for _ in range(2)]
    assert [reply.status for reply in replies] == [201, 201]
    assert replies[0].json == replies[1].json
    assert [action for action, _ in await audited()] == ["created"]
