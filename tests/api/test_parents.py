"""Parent proxies of exits: declaration, change, enrolment, and the secrecy of their password."""

from __future__ import annotations

import json

import pytest

from model.entities import Parent, Role
from model.repositories import worlds

SECRET = "correct horse battery"
PLACE = {"address": "172.18.0.2", "port": 8888}
PARENT = {**PLACE, "username": "exit", "password": SECRET}
SHOWN = {**PLACE, "username": "exit"}


async def parent_of(api, exit_id: str) -> Parent | None:
    world = await worlds.load(api.context.database)
    return next(each.parent for each in world.exits.values() if str(each.id) == exit_id)


async def test_parent_password_is_never_shown_or_audited(demo, query):
    made = await demo.declare_exit(parent=PARENT)
    assert made["parent"] == SHOWN
    assert await parent_of(demo, made["id"]) == Parent("172.18.0.2", 8888, "exit", SECRET)
    assert SECRET not in repr(await parent_of(demo, made["id"]))
    for path in (f"exits/{made['id']}", "exits", "declared", "audit-events", f"proxies/{made['id']}", "events"):
        if path != "events":
            reply = await demo("GET", f"/api/v1/{path}")
            assert reply.status == 200, path
            assert SECRET.encode() not in reply.body, path
    for table in ("audit_event", "change"):
        assert SECRET not in str(await query(f"SELECT * FROM {table}"))


async def test_dry_run_shows_secret_without_content(demo):
    made = await demo.declare_exit()
    reply = await demo("PATCH", f"/api/v1/exits/{made['id']}?dry_run=true", {"parent": PARENT})
    assert reply.status == 200
    assert "parent-credentials" in reply.body.decode()
    assert SECRET not in reply.body.decode()
    assert (await demo("GET", f"/api/v1/exits/{made['id']}")).json == made


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_omitted_password_stays_for_same_proxy_and_user(demo, method):
    made = await demo.declare_exit(parent=PARENT)
    body = {"name": "us-1", "pool": "us", "address": "198.51.100.7", "port": 9443, "parent": SHOWN}
    path = f"/api/v1/exits/{made['id']}"
    assert (await demo(method, path, body)).status == 200
    assert await parent_of(demo, made["id"]) == Parent("172.18.0.2", 8888, "exit", SECRET)
    for other in ({"address": "evil.example"}, {"port": 1}, {"username": "other"}):
        reply = await demo(method, path, body | {"parent": SHOWN | other})
        assert (reply.status, reply.json["code"], reply.json["errors"][0]["field"]) == (
            422,
            "no_password",
            "/parent/password",
        )
    assert (await demo(method, path, body | {"parent": PLACE})).json["parent"] == {**PLACE, "username": None}
    assert (await parent_of(demo, made["id"])).password is None
    assert (await demo(method, path, body | {"parent": None})).json["parent"] is None
    assert await parent_of(demo, made["id"]) is None


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"port": 0}, "/parent/port"),
        ({"address": "0.0.0.0"}, "/parent/address"),
        *(
            ({"address": each}, "/parent/address")
            for each in ("127.0.0.1", "::1", "169.254.169.254", "fe80::1", "::ffff:127.0.0.1", "::ffff:7f00:1")
        ),
        *(({"address": each}, "/parent/address") for each in ("64:ff9b::7f00:1", "100.100.100.200", "fd00:ec2::254")),
        *(({"address": each}, "/parent/address") for each in ("localhost", "a.LocalHost")),
        ({"address": "http://127.0.0.1"}, "/parent/address"),
        ({"username": "a:b"}, "/parent/username"),
        ({"username": None}, "/parent"),
        ({"password": "a\nb"}, "/parent/password"),
        ({"password": SECRET * 20}, "/parent/password"),
    ],
)
async def test_bad_parent_is_refused_without_repeating_password(demo, stored, wrong, field):
    before = await stored()
    body = {"name": "x", "pool": "us", "address": "192.0.2.1", "port": 1, "parent": PARENT | wrong}
    reply = await demo("POST", "/api/v1/exits", body)
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, field)
    assert SECRET not in reply.body.decode()
    assert await stored() == before


async def test_exported_document_keeps_password_and_new_one_changes_it(demo):
    made = await demo.declare_exit(parent=PARENT)
    document = (await demo("GET", "/api/v1/declared")).json
    assert SECRET not in json.dumps(document)
    applied = await demo("PUT", "/api/v1/declared", document)
    assert (applied.status, applied.json["steps"]) == (200, [])
    assert (await parent_of(demo, made["id"])).password == SECRET
    document["exits"][0]["parent"]["password"] = "another"
    applied = await demo("PUT", "/api/v1/declared", document)
    assert [(step["action"], step["name"], step["changes"]) for step in applied.json["steps"]] == [
        ("changed", "us-1", {})
    ]
    assert (await parent_of(demo, made["id"])).password == "another"
    assert (await demo("PUT", "/api/v1/declared", document)).json["steps"] == []


async def test_importing_new_exit_without_parent_password_is_refused(demo):
    made = await demo.declare_exit(parent=PARENT)
    document = (await demo("GET", "/api/v1/declared")).json
    await demo("DELETE", f"/api/v1/exits/{made['id']}")
    reply = await demo("PUT", "/api/v1/declared", document)
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, "/exits/0/parent/password")


async def test_enrolment_sets_parent_and_keeps_it_if_omitted(demo, make_proxy, make_token):
    token = await make_token(Role.EXIT)
    proxy = make_proxy(Role.EXIT)
    assert (await proxy.enrol(token, "us-1", parent=PARENT)).status == 201
    assert await parent_of(demo, proxy.id) == Parent("172.18.0.2", 8888, "exit", SECRET)
    for fields in ({}, {"parent": PLACE}, {"parent": SHOWN}):
        assert (await proxy.enrol(token, "us-1", **fields)).status == 201
        assert await parent_of(demo, proxy.id) == Parent("172.18.0.2", 8888, "exit", SECRET)


async def test_enrolment_with_new_parent_needs_a_heartbeat(demo, make_proxy, make_token, query):
    token = await make_token(Role.EXIT)
    proxy = make_proxy(Role.EXIT)
    await proxy.enrol(token, "us-1", parent=PARENT)
    await query("UPDATE exit SET state = 'healthy' RETURNING id")
    await proxy.enrol(token, "us-1", parent=PARENT)
    assert (await demo("GET", f"/api/v1/exits/{proxy.id}")).json["state"] == "healthy"
    await proxy.enrol(token, "us-1", parent=PARENT | {"port": 8889})
    assert (await demo("GET", f"/api/v1/exits/{proxy.id}")).json["state"] == "registering"


LOCAL = {"address": "127.0.0.1", "port": 8888}


async def test_operator_keeps_the_local_parent_that_an_agent_enrolled(demo, make_proxy, make_token):
    """The agent runs on the exit's host, so it decides which of that host's services clients may reach."""
    proxy = make_proxy(Role.EXIT)
    assert (await proxy.enrol(await make_token(Role.EXIT), "us-1", parent=PARENT | LOCAL)).status == 201
    path = f"/api/v1/exits/{proxy.id}"
    changed = await demo("PATCH", path, {"parent": PARENT | LOCAL | {"password": "another"}})
    assert changed.status == 200
    document = (await demo("GET", "/api/v1/declared")).json
    assert (await demo("PUT", "/api/v1/declared", document)).json["steps"] == []
    for other in ({"port": 22}, {"address": "127.0.0.2"}):
        reply = await demo("PATCH", path, {"parent": PARENT | LOCAL | other})
        assert (reply.status, reply.json["code"]) == (422, "parent_on_exit")
        document["exits"][0]["parent"] = PARENT | LOCAL | other
        assert (await demo("PUT", "/api/v1/declared", document)).json["code"] == "parent_on_exit"
    assert await parent_of(demo, proxy.id) == Parent("127.0.0.1", 8888, "exit", "another")


async def test_setting_of_the_installation_allows_local_parents(demo, make_api, database):
    api = make_api(database, allows_local_parents=True)
    body = {"name": "x", "pool": "us", "fleet": "demo", "address": "192.0.2.1", "port": 1, "parent": LOCAL}
    assert (await api("POST", "/api/v1/exits", body)).status == 201
    assert (await demo("POST", "/api/v1/exits", body | {"name": "y"})).status == 422
