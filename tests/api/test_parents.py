"""Parent proxies of exits: declared, changed and enrolled with, and a password that never comes out."""

from __future__ import annotations

import json

import pytest

from model.entities import Parent, Role
from model.repositories import worlds

SECRET = "correct horse battery"
PLACE = {"address": "127.0.0.1", "port": 8888}
PARENT = {**PLACE, "username": "exit", "password": SECRET}
SHOWN = {**PLACE, "username": "exit"}


async def parent_of(api, exit_id: str) -> Parent | None:
    world = await worlds.load(api.context.database)
    return next(each.parent for each in world.exits.values() if str(each.id) == exit_id)


async def test_a_parent_is_declared_and_its_password_goes_into_the_world_alone(demo, query):
    made = await demo.declare_exit(parent=PARENT)
    assert made["parent"] == SHOWN
    assert await parent_of(demo, made["id"]) == Parent("127.0.0.1", 8888, "exit", SECRET)
    assert SECRET not in repr(await parent_of(demo, made["id"]))
    for path in (f"exits/{made['id']}", "exits", "declared", "audit-events", f"proxies/{made['id']}", "events"):
        if path != "events":
            reply = await demo("GET", f"/api/v1/{path}")
            assert reply.status == 200, path
            assert SECRET.encode() not in reply.body, path
    for table in ("audit_event", "change"):
        assert SECRET not in str(await query(f"SELECT * FROM {table}"))


async def test_a_dry_run_tells_of_the_secret_and_not_what_it_is(demo):
    made = await demo.declare_exit()
    reply = await demo("PATCH", f"/api/v1/exits/{made['id']}?dry_run=true", {"parent": PARENT})
    assert reply.status == 200
    assert "parent-credentials" in reply.body.decode()
    assert SECRET not in reply.body.decode()
    assert (await demo("GET", f"/api/v1/exits/{made['id']}")).json == made


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_password_that_is_left_out_stays_while_the_proxy_and_the_user_do(demo, method):
    made = await demo.declare_exit(parent=PARENT)
    wish = {"name": "us-1", "pool": "us", "address": "198.51.100.7", "port": 9443, "parent": SHOWN}
    path = f"/api/v1/exits/{made['id']}"
    assert (await demo(method, path, wish)).status == 200
    assert await parent_of(demo, made["id"]) == Parent("127.0.0.1", 8888, "exit", SECRET)
    for other in ({"address": "evil.example"}, {"port": 1}, {"username": "other"}):
        reply = await demo(method, path, wish | {"parent": SHOWN | other})
        assert (reply.status, reply.json["code"], reply.json["errors"][0]["field"]) == (
            422,
            "no_password",
            "/parent/password",
        )
    assert (await demo(method, path, wish | {"parent": PLACE})).json["parent"] == {**PLACE, "username": None}
    assert (await parent_of(demo, made["id"])).password is None
    assert (await demo(method, path, wish | {"parent": None})).json["parent"] is None
    assert await parent_of(demo, made["id"]) is None


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"port": 0}, "/parent/port"),
        ({"address": "0.0.0.0"}, "/parent/address"),
        ({"address": "http://127.0.0.1"}, "/parent/address"),
        ({"username": "a:b"}, "/parent/username"),
        ({"username": None}, "/parent"),
        ({"password": "a\nb"}, "/parent/password"),
        ({"password": SECRET * 20}, "/parent/password"),
    ],
)
async def test_a_wrong_parent_is_refused_without_repeating_the_password(demo, stored, wrong, field):
    before = await stored()
    wish = {"name": "x", "pool": "us", "address": "192.0.2.1", "port": 1, "parent": PARENT | wrong}
    reply = await demo("POST", "/api/v1/exits", wish)
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, field)
    assert SECRET not in reply.body.decode()
    assert await stored() == before


async def test_a_document_that_was_exported_leaves_the_password_and_one_with_another_changes_it(demo):
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


async def test_an_exported_document_says_where_it_lacks_a_password(demo):
    made = await demo.declare_exit(parent=PARENT)
    document = (await demo("GET", "/api/v1/declared")).json
    await demo("DELETE", f"/api/v1/exits/{made['id']}")
    reply = await demo("PUT", "/api/v1/declared", document)
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, "/exits/0/parent/password")


async def test_an_exit_enrols_with_its_parent_and_one_that_says_nothing_leaves_it(demo, make_proxy, make_token):
    token = await make_token(Role.EXIT)
    proxy = make_proxy(Role.EXIT)
    assert (await proxy.enrol(token, "us-1", parent=PARENT)).status == 201
    assert await parent_of(demo, proxy.id) == Parent("127.0.0.1", 8888, "exit", SECRET)
    for said in ({}, {"parent": PLACE}, {"parent": SHOWN}):
        assert (await proxy.enrol(token, "us-1", **said)).status == 201
        assert await parent_of(demo, proxy.id) == Parent("127.0.0.1", 8888, "exit", SECRET)


async def test_an_exit_that_enrols_with_another_parent_has_to_be_heard_of_first(demo, make_proxy, make_token, query):
    token = await make_token(Role.EXIT)
    proxy = make_proxy(Role.EXIT)
    await proxy.enrol(token, "us-1", parent=PARENT)
    await query("UPDATE exit SET state = 'healthy' RETURNING id")
    await proxy.enrol(token, "us-1", parent=PARENT)
    assert (await demo("GET", f"/api/v1/exits/{proxy.id}")).json["state"] == "healthy"
    await proxy.enrol(token, "us-1", parent=PARENT | {"port": 8889})
    assert (await demo("GET", f"/api/v1/exits/{proxy.id}")).json["state"] == "registering"
