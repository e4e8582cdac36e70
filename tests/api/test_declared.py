"""The declared state as one document: it is applied in whole or in part, pruned, exported and applied again."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from model.exit_states import ExitState

pytestmark = pytest.mark.postgres
PATH = "/api/v1/declared"
NOTHING = {name: [] for name in ("fleets", "plans", "pools", "certificates", "listeners", "exits", "routes", "users")}
DEMO = {"name": "demo", "listener": {"address": "127.0.0.1", "port": 8080}}
US = {"name": "us", "fleet": "demo", "country": "us"}
DE = {"name": "de", "fleet": "demo", "country": "de"}
EXIT = {"name": "us-1", "fleet": "demo", "pool": "us", "address": "198.51.100.7", "port": 8443}
ROUTE = {"name": "staff", "fleet": "demo", "match": {"groups": ["staff"]}, "action": {"pools": [{"pool": "us"}]}}
WHOLE = {
    "fleets": [DEMO],
    "plans": [{"name": "basic", "fleet": "demo", "tunnels": 5}],
    "pools": [US, {"name": "berlin", "fleet": "demo", "country": "de", "city": "berlin"}],
    "listeners": [{"name": "us", "fleet": "demo", "address": "127.0.0.1", "port": 8081, "pool": "us"}],
    "exits": [EXIT],
    "routes": [ROUTE],
    "users": [{"name": "alice", "fleet": "demo", "group": "staff", "plan": "basic"}],
}


@pytest.fixture
def put(api):
    """Apply a document: `await put(document, prune=True, …)`."""

    async def apply(document, **query):
        parameters = {name: str(value).lower() if value is True else value for name, value in query.items()}
        return await api(
            "PUT", PATH + "?" + "&".join(f"{name}={value}" for name, value in parameters.items()), document
        )

    return apply


@pytest.fixture
def steps(put):
    """Apply a document and return its steps as `created pool us`: `await steps(document, …)`."""

    async def apply(document, **query):
        reply = await put(document, **query)
        assert reply.status == 200, reply.body
        return [f"{step['action']} {step['kind']} {step['name']}" for step in reply.json["steps"]]

    return apply


@pytest.fixture
def export(api):
    async def read(fleet=None):
        reply = await api("GET", PATH + (f"?fleet={fleet}" if fleet else ""))
        assert reply.status == 200, reply.body
        return reply.json

    return read


@contextmanager
def record_statements(database):
    """Collect the statements that are sent in the block."""
    sent = []

    def note(connection, cursor, statement, *_):
        sent.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)


def assert_refused(reply, status, code, field):
    assert (reply.status, reply.json["code"]) == (status, code), reply.body
    assert [error["field"] for error in reply.json["errors"]] == [field]


# -- apply and export --------------------------------------------------------------------------------------------------


async def test_document_creates_everything_in_one_revision(put, stored):
    reply = await put(WHOLE)
    assert (reply.status, reply.revision) == (200, 1)
    assert [f"{step['action']} {step['kind']}" for step in reply.json["steps"]] == [
        *("created fleet", "created plan", "created pool", "created pool"),
        *("created listener", "created exit", "created route", "created user"),
    ]
    assert (await stored())["listener"] == 2


async def test_reapplied_document_makes_no_revision(put):
    await put(WHOLE)
    again = await put(WHOLE)
    assert (again.revision, again.json) == (1, {"steps": [], "unchanged": 8})


async def test_exported_document_applies_without_steps(put, export, steps):
    await put(WHOLE)
    exported = await export()
    assert await steps(exported, prune=True) == []


async def test_export_restores_everything_that_was_pruned(put, export, steps):
    await put(WHOLE)
    exported = await export()
    assert (await put(NOTHING, prune=True, approve="shrink")).status == 200
    assert await export() == NOTHING
    await put(exported)
    assert await export() == exported


async def test_export_order_is_stable(put, export):
    await put({"fleets": [{"name": "b"}, {"name": "a"}], "pools": [US | {"fleet": "b"}, DE | {"fleet": "b"}]})
    await put({"pools": [US | {"fleet": "a"}], "routes": [ROUTE | {"fleet": "b", "name": "z", "position": 1}]})
    await put({"routes": [ROUTE | {"fleet": "b", "name": "a", "position": 2}]})
    exported = await export()
    assert [each["name"] for each in exported["fleets"]] == ["a", "b"]
    assert [(each["fleet"], each["name"]) for each in exported["pools"]] == [("a", "us"), ("b", "de"), ("b", "us")]
    assert [each["name"] for each in exported["routes"]] == ["z", "a"]


async def test_step_shows_old_and_new_values(put):
    await put(WHOLE)
    reply = await put({"exits": [EXIT | {"port": 9, "enabled": False}]})
    (step,) = reply.json["steps"]
    assert (step["fleet"], step["name"], step["changes"]) == (
        "demo",
        "us-1",
        {"port": [8443, 9], "enabled": [True, False]},
    )


# -- partial documents -------------------------------------------------------------------------------------------------


async def test_missing_collection_is_left_unchanged(put, steps, export):
    await put(WHOLE)
    assert await steps({"users": []}, prune=True, fleet="demo") == ["deleted user alice"]
    assert (await export())["pools"] == (await export("demo"))["pools"] != []


async def test_nothing_is_deleted_without_prune(put, steps):
    await put(WHOLE)
    assert await steps(NOTHING) == []


async def test_pruned_fleet_takes_its_listener_along(put, steps):
    await put({"fleets": [DEMO, {"name": "other", "listener": DEMO["listener"]}]})
    assert await steps({"fleets": [DEMO]}, prune=True) == ["deleted fleet other"]


async def test_prune_touches_other_fleets_only_if_document_has_fleets(put, steps, export):
    await put(WHOLE)
    await put({"fleets": [{"name": "other"}], "pools": [US | {"fleet": "other"}]})
    assert await steps({"pools": [DE | {"fleet": "other"}]}, prune=True) == ["created pool de", "deleted pool us"]
    assert len((await export("demo"))["pools"]) == 2
    refused = await put({**WHOLE, "pools": WHOLE["pools"]}, prune=True)
    assert_refused(refused, 409, "would_shrink", "?approve")
    assert await steps(WHOLE, prune=True, approve="shrink") == ["deleted pool de", "deleted fleet other"]


async def test_document_for_one_fleet_touches_no_other(put, steps):
    await put(WHOLE)
    other = {"fleets": [{"name": "other"}], "pools": [US | {"fleet": "other"}]}
    assert await steps(other, fleet="other", prune=True) == ["created fleet other", "created pool us"]
    assert_refused(await put(WHOLE, fleet="other"), 422, "other_fleet", "/fleets/0/name")
    assert_refused(await put({"pools": [US]}, fleet="other"), 422, "other_fleet", "/pools/0/fleet")


async def test_references_take_names_and_ids(put, export, api, steps):
    await put(WHOLE)
    ids = {
        name: (await api("GET", f"/api/v1/{name}s/{ref}")).json["id"]
        for name, ref in [("fleet", "demo"), ("pool", "us"), ("plan", "basic")]
    }
    by_id = {
        "exits": [EXIT | {"fleet": ids["fleet"], "pool": ids["pool"]}],
        "listeners": [WHOLE["listeners"][0] | {"pool": ids["pool"]}],
        "users": [WHOLE["users"][0] | {"plan": ids["plan"]}],
        "routes": [ROUTE | {"action": {"pools": [{"pool": ids["pool"]}]}}],
    }
    assert await steps(by_id) == []
    moved = await put({"exits": [EXIT | {"pool": ids["pool"], "port": 1}]})
    assert moved.json["steps"][0]["changes"] == {"port": [8443, 1]}


async def test_exit_is_identified_by_name_and_may_change_pool(put, steps, export):
    await put(WHOLE)
    assert await steps({"exits": [EXIT | {"pool": "berlin"}]}) == ["changed exit us-1"]
    assert [each["pool"] for each in (await export())["exits"]] == ["berlin"]


# -- order -------------------------------------------------------------------------------------------------------------


async def test_two_pools_exchange_countries(put, steps, export):
    await put({"fleets": [DEMO], "pools": [US, DE]})
    swapped = [US | {"country": "de"}, DE | {"country": "us"}]
    assert await steps({"pools": swapped}) == ["changed pool us", "changed pool de"]
    assert {each["name"]: (each["country"], each["only_by_name"]) for each in (await export())["pools"]} == {
        "us": ("de", False),
        "de": ("us", False),
    }


async def test_many_pools_rotate_their_countries(put, steps, export):
    codes = ["us", "de", "fr", "gb", "jp"]
    pools = [{"name": f"p-{n}", "fleet": "demo", "country": code} for n, code in enumerate(codes)]
    await put({"fleets": [DEMO], "pools": pools})
    turned = [pool | {"country": codes[(n + 1) % 5]} for n, pool in enumerate(pools)]
    assert len(await steps({"pools": turned})) == 5
    assert [each["country"] for each in (await export())["pools"]] == [*codes[1:], codes[0]]


async def test_first_listener_and_another_exchange_ports(put, steps, export):
    listeners = [
        {"name": name, "fleet": "demo", "address": "127.0.0.1", "port": port}
        for name, port in [("clients", 8080), ("other", 8081)]
    ]
    await put({"fleets": [{"name": "demo"}], "listeners": listeners})
    swapped = [listeners[0] | {"port": 8081}, listeners[1] | {"port": 8080}]
    assert await steps({"listeners": swapped}) == ["changed listener clients", "changed listener other"]
    assert [(each["address"], each["port"]) for each in (await export())["listeners"]] == [
        ("127.0.0.1", 8081),
        ("127.0.0.1", 8080),
    ]
    by_fleet = {"fleets": [DEMO], "listeners": [listeners[1]]}
    assert await steps(by_fleet) == ["changed fleet demo", "changed listener other"]


async def test_referenced_pool_is_replaced_under_another_name(put, steps, export):
    await put(WHOLE)
    renamed = {
        "pools": [US | {"name": "america"}, WHOLE["pools"][1]],
        "exits": [EXIT | {"pool": "america"}],
        "listeners": [
            WHOLE["listeners"][0] | {"pool": "america"},
            {"name": "clients", "fleet": "demo", **DEMO["listener"]},
        ],
        "routes": [ROUTE | {"action": {"pools": [{"pool": "america"}]}}],
    }
    assert await steps(renamed, prune=True) == [
        *("created pool america", "changed listener us", "changed exit us-1", "changed route staff", "deleted pool us")
    ]


async def test_prune_keeps_first_listener_declared_with_fleet(put, steps):
    await put(WHOLE)
    assert await steps({"fleets": [DEMO], "listeners": []}, prune=True) == ["deleted listener us"]


async def test_contradicting_first_listeners_are_refused(put, stored):
    clients = {"name": "clients", "fleet": "demo", "address": "127.0.0.1", "port": 8080, "country": "us"}
    assert (await put({"fleets": [DEMO], "listeners": [clients]})).status == 200
    refused = await put({"fleets": [DEMO], "listeners": [clients | {"port": 1}]})
    assert_refused(refused, 422, "contradiction", "/fleets/0/listener")
    assert (await stored())["revision"] == 1


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "status", "code", "field"),
    [
        ({"pools": [US, US]}, 422, "twice", "/pools/1/name"),
        ({"pools": [US, DE | {"country": "us"}]}, 409, "duplicate", "/pools/1/country"),
        ({"pools": [US | {"fleet": "nowhere"}]}, 422, "unknown_fleet", "/pools/0/fleet"),
        (
            {"exits": [{name: value for name, value in EXIT.items() if name != "fleet"}]},
            422,
            "no_fleet",
            "/exits/0/fleet",
        ),
        ({"exits": [EXIT | {"pool": "nowhere"}]}, 422, "unknown_pool", "/exits/0/pool"),
        ({"users": [{"name": "a", "fleet": "demo", "plan": "none"}]}, 422, "unknown_plan", "/users/0/plan"),
        ({"listeners": [{"name": "a", "fleet": "demo", **DEMO["listener"]}]}, 409, "duplicate", "/listeners/0/port"),
        (
            {"routes": [ROUTE | {"action": {"pools": [{"pool": "x"}]}}]},
            422,
            "unknown_pool",
            "/routes/0/action/pools/0/pool",
        ),
        ({"pools": [DE, {"name": "x", "fleet": "demo", "country": "zz"}]}, 422, "invalid", "/pools/1/country"),
        ({"pools": [DE | {"colour": "red"}]}, 422, "invalid", "/pools/0/colour"),
        ({"colours": []}, 422, "invalid", "/colours"),
    ],
)
async def test_error_names_place_in_document_and_changes_nothing(document, status, code, field, put, stored):
    await put({"fleets": [DEMO], "pools": [DE]})
    before = await stored()
    assert_refused(await put(document), status, code, field)
    assert await stored() == before


async def test_prune_refuses_item_referenced_outside_document(put, stored):
    await put(WHOLE)
    before = await stored()
    assert_refused(await put({"plans": [{"name": "other", "fleet": "demo"}]}, prune=True), 409, "in_use", "?prune")
    assert await stored() == before


async def test_shrink_guard_checks_whole_document(put, stored, query):
    names = [f"us-{n}" for n in range(4)]
    await put({"fleets": [DEMO], "pools": [US], "exits": [EXIT | {"name": name} for name in names]})
    await query("UPDATE exit SET state = :healthy", healthy=ExitState.HEALTHY.value)
    before = await stored()
    three = {"exits": [EXIT | {"name": name, "enabled": False} for name in names[:3]]}
    assert_refused(await put(three), 409, "would_shrink", "?approve")
    assert_refused(await put({"exits": [EXIT | {"name": names[0]}]}, prune=True), 409, "would_shrink", "?approve")
    assert await stored() == before
    assert (await put(three, approve="shrink")).status == 200


async def test_dry_run_shows_steps_and_stores_nothing(put, stored):
    reply = await put(WHOLE, dry_run=True)
    assert (reply.status, len(reply.json["body"]["steps"]), (await stored())["fleet"]) == (200, 8, 0)
    await put(WHOLE)
    nothing = await put(WHOLE, dry_run=True)
    assert nothing.json["differences"] == {"changed": [], "configuration": []}


# -- concurrent writes -------------------------------------------------------------------------------------------------


async def test_concurrent_applies_of_same_document_succeed(put, stored):
    replies = await asyncio.gather(*(put(WHOLE) for _ in range(6)))
    assert [reply.status for reply in replies] == [200] * 6
    assert (await stored())["revision"] == 1


async def test_concurrent_documents_and_single_writes_serialize(put, api, export):
    await put(WHOLE)

    async def write(number):
        if number % 2:
            return await put(
                {"pools": [US, DE], "exits": [EXIT | {"port": number + 1, "pool": ["us", "de"][number % 4 // 2]}]}
            )
        return await api("PATCH", "/api/v1/exits/us-1?fleet=demo", {"port": number + 1})

    replies = await asyncio.gather(*(write(number) for number in range(8)))
    assert {reply.status for reply in replies} == {200}
    exported = await export()
    assert exported["exits"][0]["port"] in range(1, 9)
    assert {each["name"] for each in exported["pools"]} == {"us", "berlin", "de"}


async def test_operator_of_one_fleet_applies_in_that_fleet_only(put, api, make_operator, export, query):
    await put(WHOLE)
    await put({"fleets": [{"name": "other"}], "pools": [US | {"fleet": "other"}]})
    (fleet,) = await query("SELECT id FROM fleet WHERE name = 'other'")
    person = await make_operator("ada", "operator", fleet_ids=[str(fleet["id"])])
    call = api.holding(person.key)
    visible = (await call("GET", PATH)).json
    assert ([each["name"] for each in visible["fleets"]], len(visible["pools"])) == (["other"], 1)
    assert (await call("PUT", PATH + "?prune=true", visible)).json["steps"] == []
    assert_refused(await call("PUT", PATH, {"pools": [US]}), 422, "unknown_fleet", "/pools/0/fleet")
    assert (await call("PUT", PATH, {"fleets": [DEMO]})).status == 403
    assert len((await export())["fleets"]) == 2


# -- cost --------------------------------------------------------------------------------------------------------------


def large(exits, users):
    return {
        "fleets": [DEMO],
        "plans": WHOLE["plans"],
        "pools": [{"name": f"p-{n}", "fleet": "demo", "country": "us", "city": f"city{n}"} for n in range(20)],
        "exits": [EXIT | {"name": f"e-{n}", "pool": f"p-{n % 20}"} for n in range(exits)],
        "users": [{"name": f"u{n}", "fleet": "demo", "group": "staff", "plan": "basic"} for n in range(users)],
    }


@pytest.mark.slow
async def test_large_document_takes_few_statements(put, api):
    document = large(1_000, 2_000)
    with record_statements(api.context.database) as sent:
        assert len((await put(document)).json["steps"]) == 3_022
    assert len(sent) < 100
    for name, field, value in (("exits", "port", 9_000), ("users", "group", "others")):
        document[name] = [each | {field: value} for each in document[name]]
    with record_statements(api.context.database) as sent:
        assert len((await put(document)).json["steps"]) == 3_000
    assert len(sent) < 100
    with record_statements(api.context.database) as sent:
        assert (await put(document)).json == {"steps": [], "unchanged": 3_022}
    assert len(sent) < 50


async def test_statement_count_is_independent_of_number_of_items(put, api):
    counts = []
    for fleet, size in (("small", 3), ("large", 60)):
        names = [f"n-{n}" for n in range(size)]
        document = {
            "fleets": [DEMO | {"name": fleet}],
            "plans": [{"name": name, "fleet": fleet} for name in names],
            "pools": [{"name": name, "fleet": fleet, "country": "us", "city": f"city{name}"} for name in names],
            "listeners": [
                {"name": name, "fleet": fleet, "address": "127.0.0.1", "port": 9_000 + n, "pool": name}
                for n, name in enumerate(names)
            ],
            "exits": [EXIT | {"name": name, "fleet": fleet, "pool": name} for name in names],
            "users": [{"name": name.replace("-", ""), "fleet": fleet, "plan": name} for name in names],
        }
        with record_statements(api.context.database) as created:
            assert len((await put(document)).json["steps"]) == 5 * size + 1
        document["exits"] = [each | {"port": 9} for each in document["exits"]]
        document["users"] = [each | {"group": "others"} for each in document["users"]]
        with record_statements(api.context.database) as changed:
            assert len((await put(document)).json["steps"]) == 2 * size
        counts.append((len(created), len(changed)))
    assert counts[0] == counts[1]


async def test_clash_in_batch_is_located(put, stored):
    document = large(50, 50)
    document["pools"][7]["city"] = "city3"
    assert_refused(await put(document), 409, "duplicate", "/pools/7/city")
    assert (await stored())["revision"] == 0


async def test_export_without_defaults_applies_without_steps(api, put, steps):
    await put(WHOLE)
    reply = await api("GET", f"{PATH}?defaults=false")
    assert reply.json["exits"] == [EXIT]
    assert reply.json["pools"] == [WHOLE["pools"][1], US]
    assert await steps(reply.json, prune=True) == []
