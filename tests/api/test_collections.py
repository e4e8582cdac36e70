"""The behaviour of every collection: pages, filters, order, ETags, idempotency keys, dry runs and bulk writes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import event

from model.repositories import worlds
from tests.api.certificates import certificate

DENY = {"deny": {"status": 403, "text": "no\n"}}


BODIES = {
    "fleets": lambda n: {"name": f"f-{n}"},
    "pools": lambda n: {"name": f"p-{n}", "fleet": "demo", "country": "de", "city": f"city{n}"},
    "exits": lambda n: {"name": f"e-{n}", "fleet": "demo", "pool": "us", "address": "198.51.100.1", "port": 1000 + n},
    "listeners": lambda n: {"name": f"l-{n}", "fleet": "demo", "address": "127.0.0.1", "port": 9000 + n},
    "routes": lambda n: {"name": f"r-{n}", "fleet": "demo", "position": n, "action": DENY},
    "users": lambda n: {"name": f"u{n}", "fleet": "demo"},
    "plans": lambda n: {"name": f"plan-{n}", "fleet": "demo", "tunnels": n + 1},
    "certificates": lambda n: {"name": f"c-{n}", "fleet": "demo", **certificate()},
}
CHANGES = {
    "fleets": {"name": "renamed"},
    "pools": {"country": "fr"},
    "exits": {"port": 7},
    "listeners": {"country": "de"},
    "routes": {"enabled": False},
    "users": {"group": "staff"},
    "plans": {"tunnels": None},
    "certificates": {"name": "renamed"},
}
EVERY = pytest.mark.parametrize("name", BODIES)


@pytest.fixture
def make(demo):
    """Create the n-th item of a collection and return its response: `await make(name, n)`."""

    async def post(name, number=0, **fields):
        reply = await demo("POST", f"/api/v1/{name}", BODIES[name](number) | fields)
        assert reply.status == 201, reply.body
        return reply.json

    return post


@pytest.fixture
def statements(database):
    """Collect the statements that are sent to PostgreSQL: `with statements() as sent`."""

    @contextmanager
    def watch():
        sent = []

        def note(_connection, _cursor, statement, *_):
            sent.append(statement)

        event.listen(database.engine.sync_engine, "before_cursor_execute", note)
        yield sent
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)

    return watch


# -- single items ------------------------------------------------------------------------------------------------------


@EVERY
async def test_item_is_managed_by_id_and_by_name(name, demo, make):
    created = await make(name)
    by_id, by_name = f"/api/v1/{name}/{created['id']}", f"/api/v1/{name}/{created['name']}"
    assert (await demo("GET", by_id)).json == (await demo("GET", by_name)).json == created
    changed = await demo("PATCH", by_name, CHANGES[name])
    assert (changed.status, changed.json) == (200, created | changed.json | CHANGES[name])
    assert changed.json != created
    replaced = await demo("PUT", by_id, BODIES[name](0) | ({} if name != "certificates" else certificate()))
    assert replaced.status == 200, replaced.body
    volatile = {"chain", "presented_chain", "explanation", "state_since"}
    assert {key: value for key, value in replaced.json.items() if key not in volatile} == {
        key: value for key, value in created.items() if key not in volatile
    }
    assert (await demo("DELETE", by_id)).status == 204
    assert [(await demo(method, by_id)).status for method in ("GET", "DELETE")] == [404, 404]


@EVERY
async def test_duplicate_name_is_refused(name, make, demo):
    created = await make(name)
    reply = await demo("POST", f"/api/v1/{name}", BODIES[name](1) | {"name": created["name"]})
    assert (reply.status, reply.json["code"], reply.json["errors"][0]["field"]) == (409, "duplicate", "/name")


@EVERY
async def test_unchanged_item_makes_no_revision(name, demo, make, stored):
    created = await make(name)
    before = await stored()
    field = next(iter(CHANGES[name]))
    assert (await demo("PATCH", f"/api/v1/{name}/{created['id']}", {field: created[field]})).status == 200
    assert await stored() == before


@pytest.mark.parametrize("name", [name for name in BODIES if name != "fleets"])
async def test_item_stays_in_its_fleet(name, demo, make):
    await demo.declare("other", "other", "us")
    created = await make(name)
    body = BODIES[name](0) | {"fleet": "other"}
    reply = await demo("PUT", f"/api/v1/{name}/{created['id']}", body)
    assert (reply.status, reply.json["code"], reply.json["errors"][0]["field"]) == (422, "immutable", "/fleet")


# -- lists -------------------------------------------------------------------------------------------------------------


@EVERY
async def test_pages_hold_each_item_once_during_writes(name, demo, make):
    created = [await make(name, number) for number in range(5)]
    names, cursor = [], ""
    for page in range(10):
        reply = (await demo("GET", f"/api/v1/{name}?limit=2&sort=-name{cursor}")).json
        names += [each["name"] for each in reply["items"]]
        if page == 0:  # the cursor holds the last item of the page, which may be deleted
            await demo("DELETE", f"/api/v1/{name}/{created[4]['id']}")
            await make(name, 9)
        if reply["next"] is None:
            break
        cursor = f"&cursor={reply['next']}"
    remaining = [each for each in names if each in {it["name"] for it in created}]
    assert remaining == sorted((each["name"] for each in created), reverse=True)
    assert len(names) == len(set(names))


@EVERY
async def test_list_is_filtered_by_name_and_fleet(name, demo, make):
    await demo.declare("other", "other", "us")
    created = [await make(name, number) for number in (1, 2, 12)]
    begins = created[0]["name"]

    async def listed(query):
        return {each["name"] for each in (await demo("GET", f"/api/v1/{name}?{query}")).json["items"]}

    assert await listed(f"name={begins}") == {begins}
    assert await listed(f"name={begins}*") == {created[0]["name"], created[2]["name"]}
    if name != "fleets":
        assert {each["name"] for each in created} <= await listed("fleet=demo")
        assert not {each["name"] for each in created} & await listed("fleet=other")


@pytest.mark.parametrize(
    ("query", "field", "code"),
    [
        ("limit=0", "?limit", "invalid"),
        ("limit=10001", "?limit", "invalid"),
        ("limit=x", "?limit", "invalid"),
        ("sort=color", "?sort", "bad_sort"),
        ("cursor=AAAA", "?cursor", "bad_cursor"),
        ("cursor=%00", "?cursor", "bad_cursor"),
        ("color=red", "?color", "invalid"),
        ("name=a*b", "?name", "invalid"),
    ],
)
async def test_bad_query_parameter_is_named(query, field, code, demo):
    for name in BODIES:
        reply = await demo("GET", f"/api/v1/{name}?{query}")
        assert (reply.status, reply.json["code"], reply.json["errors"][0]["field"]) == (422, code, field), name


async def test_cursor_of_another_order_is_refused(demo, make):
    for number in range(3):
        await make("users", number)
    cursor = (await demo("GET", "/api/v1/users?limit=1&sort=name")).json["next"]
    reply = await demo("GET", f"/api/v1/users?sort=-name&cursor={cursor}")
    assert (reply.status, reply.json["code"]) == (422, "bad_cursor")


@pytest.mark.slow
async def test_statement_count_of_list_is_constant(demo, make, statements):
    for name in ("exits", "users", "routes", "pools"):
        await make(name, 0)
        with statements() as few:
            await demo("GET", f"/api/v1/{name}")
        bodies = [BODIES[name](number) for number in range(1, 200)]
        assert (await demo("POST", f"/api/v1/{name}/bulk", {"create": bodies})).status == 200
        with statements() as many:
            assert len((await demo("GET", f"/api/v1/{name}")).json["items"]) >= 200
        assert len(many) == len(few), name


# -- ETags -------------------------------------------------------------------------------------------------------------


@EVERY
async def test_stale_if_match_is_refused(name, demo, make):
    created = await make(name)
    path = f"/api/v1/{name}/{created['id']}"
    etag = (await demo("GET", path)).headers["etag"]
    changed = await demo("PATCH", path, CHANGES[name], headers={"If-Match": etag})
    assert changed.status == 200
    for method, body in (("PATCH", CHANGES[name]), ("DELETE", None)):
        reply = await demo(method, path, body, headers={"If-Match": etag})
        assert (reply.status, reply.json["code"]) == (412, "changed_since")
        assert reply.headers["etag"] == changed.headers["etag"] != etag
    assert (await demo("DELETE", path, headers={"If-Match": f'"x", {changed.headers["etag"]}'})).status == 204


@pytest.mark.slow
@pytest.mark.usefixtures("long_pool_timeout")
async def test_fifty_writers_with_if_match_lose_no_update(demo, make):
    """Each writer adds a letter to the name that it read, and tries again after a conflict."""
    path = f"/api/v1/pools/{(await make('pools'))['id']}"
    await demo("PATCH", path, {"name": "x"})

    async def add(read):
        body = {"name": read.json["name"] + "x"}
        return (await demo("PATCH", path, body, headers={"If-Match": read.headers["etag"]})).status

    read = await demo("GET", path)
    assert Counter(await asyncio.gather(*(add(read) for _ in range(50)))) == {200: 1, 412: 49}
    for _ in range(49):
        assert await add(await demo("GET", path)) == 200
    assert (await demo("GET", path)).json["name"] == "x" * 51


# -- idempotency keys --------------------------------------------------------------------------------------------------


@EVERY
async def test_repeated_post_under_key_is_executed_once(name, demo, stored):
    body, key = BODIES[name](0), {"Idempotency-Key": "k-1"}
    replies = await asyncio.gather(*(demo("POST", f"/api/v1/{name}", body, headers=key) for _ in range(5)))
    assert Counter(reply.status for reply in replies) == {201: 5}
    assert len({reply.body for reply in replies}) == 1
    assert len({reply.headers["location"] for reply in replies}) == 1
    assert Counter(reply.headers.get("idempotency-replayed") for reply in replies) == {"true": 4, None: 1}
    before = await stored()
    assert (await demo("POST", f"/api/v1/{name}", body, headers=key)).revision == before["revision"]
    assert await stored() == before


async def test_key_is_bound_to_request_and_caller(demo, make_operator):
    key = {"Idempotency-Key": "k-1"}
    assert (await demo("POST", "/api/v1/users", BODIES["users"](0), headers=key)).status == 201
    reply = await demo("POST", "/api/v1/users", BODIES["users"](1), headers=key)
    assert (reply.status, reply.json["code"]) == (422, "key_reused")
    other = demo.holding((await make_operator("bob", "operator")).key)
    assert (await other("POST", "/api/v1/users", BODIES["users"](1), headers=key)).status == 201


async def test_credential_of_owner_does_not_replay_reply_of_another(demo, stored):
    """A key of another fleet must not learn what its owner, or the owner's key, was answered."""
    key = {"Idempotency-Key": "k-1"}
    made = await demo("POST", "/api/v1/api-keys", {"name": "narrow", "role": "operator", "scopes": ["users:write"]})
    first = await demo("POST", "/api/v1/users", BODIES["users"](0), headers=key)
    before = await stored()
    other = await demo.holding(made.json["key"])("POST", "/api/v1/users", BODIES["users"](0), headers=key)
    assert (first.status, other.status, other.json["code"]) == (201, 409, "duplicate")
    assert "idempotency-replayed" not in other.headers
    assert await stored() == before


async def test_reduced_rights_neither_replay_nor_repeat(demo, make_operator, query, stored):
    key = {"Idempotency-Key": "k-1"}
    ada = demo.holding((await make_operator("ada", "operator")).key)
    assert (await ada("POST", "/api/v1/users", BODIES["users"](0), headers=key)).status == 201
    await query("UPDATE operator SET fleet_ids = '[]' WHERE name = 'ada'")
    before = await stored()
    reply = await ada("POST", "/api/v1/users", BODIES["users"](0), headers=key)
    assert (reply.status, reply.json["code"]) == (422, "key_reused")
    assert await stored() == before


async def test_key_covers_query_of_request(demo, stored):
    body, key = BODIES["users"](0), {"Idempotency-Key": "k-1"}
    tried = await demo("POST", "/api/v1/users?dry_run=false", body, headers=key)
    assert tried.status == 201
    before = await stored()
    reply = await demo("POST", "/api/v1/users?dry_run=false&fleet=demo", body, headers=key)
    assert (reply.status, reply.json["code"]) == (422, "key_reused")
    assert await stored() == before


async def test_refused_request_may_be_repeated_under_its_key(demo, make):
    key = {"Idempotency-Key": "k-1"}
    body = BODIES["users"](0) | {"plan": "plan-0"}
    assert (await demo("POST", "/api/v1/users", body, headers=key)).status == 422
    await make("plans")
    assert (await demo("POST", "/api/v1/users", body, headers=key)).status == 201


@pytest.mark.parametrize("key", ["two words", "x" * 256, "ü"])
async def test_bad_key_is_refused(key, demo):
    reply = await demo("POST", "/api/v1/users", BODIES["users"](0), headers={"Idempotency-Key": key})
    assert reply.status == 422


# -- dry runs ----------------------------------------------------------------------------------------------------------


@EVERY
async def test_dry_run_shows_response_and_stores_nothing(name, demo, make, stored):
    created = await make(name)
    before = await stored()
    path = f"/api/v1/{name}/{created['id']}"
    for method, where, body, status in (
        ("POST", f"/api/v1/{name}", BODIES[name](1), 201),
        ("PATCH", path, CHANGES[name], 200),
        ("DELETE", path, None, 204),
    ):
        reply = await demo(method, f"{where}?dry_run=true", body)
        assert (reply.status, reply.json["status"]) == (200, status), reply.body
        assert reply.json["differences"]["changed"], method
    assert await stored() == before
    assert (await demo("GET", path)).json == created


async def test_dry_run_shows_changes_per_proxy(demo, make, gateway):
    reply = await demo("POST", "/api/v1/pools?dry_run=true", BODIES["pools"](0))
    (difference,) = [each for each in reply.json["differences"]["configuration"] if len(each["resources"]) == 2]
    assert difference["proxies"] == [gateway.id]
    changes = {each["type_url"].rpartition(".")[2]: each for each in difference["resources"]}
    assert changes["Cluster"]["change"] == "added"
    assert changes["Cluster"]["after"]["name"] == changes["Cluster"]["name"]
    assert changes["RouteConfiguration"]["change"] == "changed"
    assert changes["RouteConfiguration"]["before"] != changes["RouteConfiguration"]["after"]


async def test_dry_run_without_proxy_changes_is_empty(demo, make, gateway):
    reply = await demo("POST", "/api/v1/plans?dry_run=true", BODIES["plans"](0))
    assert reply.json["differences"]["configuration"] == []


async def test_dry_run_of_bad_request_is_refused(demo):
    reply = await demo("POST", "/api/v1/pools?dry_run=true", {"name": "us", "fleet": "demo", "country": "de"})
    assert (reply.status, reply.json["code"]) == (409, "duplicate")


# -- bulk writes -------------------------------------------------------------------------------------------------------


@EVERY
async def test_bulk_creates_and_deletes_in_one_revision(name, demo, make, stored):
    gone = [await make(name, number) for number in (1, 2)]
    before = await stored()
    body = {"create": [BODIES[name](number) for number in (2, 3)], "delete": [gone[0]["id"], gone[1]["name"]]}
    reply = await demo("POST", f"/api/v1/{name}/bulk", body)
    assert reply.status == 200, reply.body
    assert reply.json["deleted"] == [each["id"] for each in gone]
    assert [each["name"] for each in reply.json["created"]] == [each["name"] for each in body["create"]]
    assert (await stored())["revision"] == before["revision"] + 1


@EVERY
async def test_bulk_is_all_or_nothing(name, demo, make, stored):
    created = await make(name)
    before = await stored()
    bodies = [BODIES[name](1), BODIES[name](2) | {"name": BODIES[name](1)["name"]}]
    reply = await demo("POST", f"/api/v1/{name}/bulk", {"create": bodies, "delete": [created["id"]]})
    assert (reply.status, reply.json["code"]) == (409, "duplicate")
    assert reply.json["errors"][0]["field"] == "/create/1/name"
    reply = await demo("POST", f"/api/v1/{name}/bulk", {"delete": [created["id"], "nobody"]})
    assert (reply.status, reply.json["errors"][0]["field"]) == (404, "/delete/1")
    assert await stored() == before


# -- operators of one fleet --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in BODIES if name != "fleets"])
async def test_operator_of_one_fleet_sees_no_other(name, demo, make, make_operator):
    await demo.declare("other", "other", "us")
    created = await make(name)
    other = (await demo("GET", "/api/v1/fleets/other")).json["id"]
    foreign = demo.holding((await make_operator("eve", "operator", fleet_ids=[other])).key)
    path = f"/api/v1/{name}/{created['id']}"
    assert created["name"] not in {each["name"] for each in (await foreign("GET", f"/api/v1/{name}")).json["items"]}
    replies = [await foreign(*call) for call in (("GET", path), ("PATCH", path, CHANGES[name]), ("DELETE", path))]
    assert [reply.status for reply in replies] == [404, 404, 404]
    refused = await foreign("POST", f"/api/v1/{name}", BODIES[name](1))
    assert refused.status == 422
    assert refused.json["code"] in {"unknown_fleet", "unknown_pool"}
    assert (await demo("GET", path)).json == created


async def test_operator_of_one_fleet_creates_no_fleet(demo, make_operator):
    own = (await demo("GET", "/api/v1/fleets/demo")).json["id"]
    scoped = demo.holding((await make_operator("eve", "operator", fleet_ids=[own])).key)
    assert [each["name"] for each in (await scoped("GET", "/api/v1/fleets")).json["items"]] == ["demo"]
    assert (await scoped("POST", "/api/v1/fleets", {"name": "new"})).status == 403
    assert (await scoped("DELETE", "/api/v1/fleets/demo")).status == 403
    assert (await scoped("PATCH", "/api/v1/fleets/demo", {"listener": {"port": 8081}})).status == 200


# -- single collections ------------------------------------------------------------------------------------------------


async def test_country_and_city_of_pool_are_unique_unless_only_by_name(demo):
    def body(name, **fields):
        return {"name": name, "fleet": "demo", "country": "de", **fields}

    created = [
        (await demo("POST", "/api/v1/pools", each)).json
        for each in (body("de"), body("berlin", city="Berlin "), body("premium", only_by_name=True))
    ]
    assert [each["city"] for each in created] == [None, "berlin", None]
    for clash in (body("other"), body("other", city="BERLIN")):
        assert (await demo("POST", "/api/v1/pools", clash)).status == 409
    assert (await demo("PATCH", "/api/v1/pools/premium", {"only_by_name": False})).status == 409


async def test_pool_used_by_route_or_listener_is_not_deleted(demo, make):
    await make("pools")
    await make("routes", action={"pools": [{"pool": "us"}], "fallback": ["p-0"]})
    await make("listeners", pool="us")
    for pool, leads in (("p-0", "route"), ("us", "route")):
        reply = await demo("DELETE", f"/api/v1/pools/{pool}?approve=shrink")
        assert (reply.status, reply.json["code"]) == (409, "in_use"), leads
    await demo("PATCH", "/api/v1/routes/r-0", {"action": DENY})
    assert (await demo("DELETE", "/api/v1/pools/p-0")).status == 204
    reply = await demo("DELETE", "/api/v1/pools/us?approve=shrink")
    assert (reply.status, "listener" in reply.json["detail"]) == (409, True)


async def test_route_is_shown_as_declared_and_explained(demo, make):
    await make("pools")
    match = {
        "countries": ["de", "UK"],
        "groups": ["staff"],
        "times": [{"days": ["mon"], "from": "22:00", "to": "06:00"}],
    }
    action = {"pools": [{"pool": "us", "weight": 3}, {"pool": "p-0", "weight": 1}]}
    created = await make("routes", match=match, action=action)
    assert created["match"]["countries"] == ["de", "gb"]
    assert created["match"]["times"] == match["times"]
    assert created["action"]["pools"] == action["pools"]
    assert created["explanation"] == (
        "Requests for de or gb, by the group staff, from 22:00 to 06:00 UTC on mon, go to the pool us (3) or p-0 (1)."
    )


async def test_world_reads_route_as_declared(demo, make, database):
    match = {"domains": ["*.example.com"], "ports": ["443", "8000-8999"], "networks": ["192.0.2.0/24"]}
    await make("routes", match=match, action={"pools": [{"pool": "us"}]})
    world = await worlds.load(database)
    (route,) = world.routes.values()
    assert route.match.domains == {"example.com"}
    assert route.match.ports == {(443, 443), (8000, 8999)}
    assert [pool_id for pool_id, _ in route.action.weighted] == list(world.pools)


async def test_listener_takes_tls_server_names(demo, make):
    await make("certificates", **certificate("*.gateway.example"))
    names = {"DE.gateway.example": "de", "us.gateway.example": "us"}
    created = await make("listeners", certificate="c-0", countries_by_server_name=names)
    assert created["countries_by_server_name"] == {"de.gateway.example": "de", "us.gateway.example": "us"}
    assert (await demo("DELETE", "/api/v1/certificates/c-0")).status == 409
    reply = await demo("PATCH", "/api/v1/listeners/l-0", {"certificate": None})
    assert (reply.status, reply.json["code"]) == (422, "no_tls")


async def test_certificate_key_is_never_shown(demo, make, query):
    body = BODIES["certificates"](0)
    reply = await demo("POST", "/api/v1/certificates", body)
    assert "PRIVATE" not in reply.body.decode()
    assert reply.json["server_names"] == ["gateway.example"]
    for said in (
        (await demo("GET", "/api/v1/certificates/c-0")).body,
        (await demo("POST", "/api/v1/certificates?dry_run=true", BODIES["certificates"](1))).body,
        json.dumps(await query("SELECT detail FROM change")).encode(),
        json.dumps(await query("SELECT detail FROM audit_event")).encode(),
    ):
        assert b"PRIVATE" not in said
        assert body["key"].splitlines()[1].encode() not in said


BAD_PAIRS = {
    "no PEM": ({"chain": "x"}, "/chain"),
    "a key of another": ({"key": certificate()["key"]}, "/key"),
    "expired": (certificate(days=-1), "/chain"),
    "a key of a kind that gateways do not take": (certificate(key=ec.generate_private_key(ec.SECP521R1())), "/key"),
    "no key": ({"key": "-----BEGIN PRIVATE KEY-----\n"}, "/key"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD_PAIRS)
async def test_bad_certificate_is_refused(case, demo):
    fields, field = BAD_PAIRS[case]
    reply = await demo("POST", "/api/v1/certificates", BODIES["certificates"](0) | fields)
    assert (reply.status, reply.json["code"], reply.json["errors"][0]["field"]) == (422, "bad_certificate", field)
    assert reply.json["errors"][0]["value"] is None


async def test_write_is_in_audit_and_change_log(demo, make, query, admin):
    created = await make("pools")
    await demo("PATCH", "/api/v1/pools/p-0", {"country": "fr"})
    await demo("DELETE", "/api/v1/pools/p-0")
    for table, key in (("audit_event", "object_id"), ("change", "key")):
        rows = await query(f"SELECT action, detail FROM {table} WHERE {key} = :id ORDER BY 1 DESC", id=created["id"])
        found = {row["action"]: row["detail"] for row in rows}
        assert set(found) == {"created", "changed", "deleted"}
        assert found["changed"] == {"name": "p-0", "changes": {"country": ["de", "fr"]}}
    actors = await query("SELECT DISTINCT actor_id FROM audit_event WHERE kind = 'pool'")
    assert actors == [{"actor_id": admin.id}]
