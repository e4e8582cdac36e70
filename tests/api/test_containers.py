"""The containers of pools: declaration, state and commands. The API has no container engine."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from sqlalchemy import select

from api.features.containers import service
from model.container_policy import ContainerPolicy
from model.entities import Role
from model.repositories import container_commands, containers
from model.tables import ContainerCommandRow, ContainerPoolRow, ContainerRow

pytestmark = pytest.mark.postgres
POOLS, EXITS = "/api/v1/pools", "/api/v1/exits"
WANTED = {"minimum": 1, "maximum": 3, "image": "registry.example:5000/exit:1"}
FULL = WANTED | {
    "command": [],
    "environment": {},
    "secrets": [],
    "capabilities": ["NET_ADMIN"],
    "devices": ["/dev/net/tun"],
    "network": None,
    "address": None,
    "port": 8443,
    "requests_per_exit": None,
    "drain_s": 60,
}


@pytest.fixture
async def contained(demo):
    """The API with a pool that has containers."""
    assert (await demo("PATCH", f"{POOLS}/us", {"containers": WANTED})).status == 200
    return demo


@pytest.fixture
async def contained_exit(contained, database, clock):
    """A serving exit in a container, as the keeper stores it."""
    created = await contained.declare_exit(name="us-1")
    async with database.session() as session:
        row = ContainerRow(name="us-1", pool_id=UUID(created["pool_id"]), slot=1, started_at=clock(), state="running")
        await containers.save(session, row)
        await containers.record_engine(session, "unix:///run/engine.sock", clock(), "")
    return created


async def read_commands(database):
    async with database.session() as session:
        return [(row.container, row.verb, row.in_turn) for row in await container_commands.pending(session)]


# -- declared ----------------------------------------------------------------------------------------------------------


async def test_pool_shows_defaults_and_stores_sent_fields(contained, query):
    shown = (await contained("GET", f"{POOLS}/us")).json
    assert shown["containers"] == FULL
    ((row,),) = [[row["containers"]] for row in await query("SELECT containers FROM pool")]
    assert row == WANTED
    assert (await contained("PATCH", f"{POOLS}/us", {"containers": FULL})).json["containers"] == FULL


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"image": "other:1"}, "image"),
        ({"network": "underlay"}, "network"),
        ({"command": ["sh", "-c", "x"]}, "command"),
        ({"environment": {"LD_PRELOAD": "/x"}}, "environment"),
        ({"capabilities": ["NET_RAW"]}, "capabilities"),
        ({"address": "203.0.113.5"}, "port"),
    ],
)
async def test_pool_that_the_policy_does_not_allow_is_refused(fields, field, demo):
    pool = {"name": "de", "fleet": "demo", "country": "de", "containers": WANTED | fields}
    replies = [
        await demo("PATCH", f"{POOLS}/us", {"containers": WANTED | fields}),
        await demo("POST", POOLS, pool),
        await demo("PUT", "/api/v1/declared", {"pools": [pool]}),
    ]
    assert [(reply.status, reply.json["code"]) for reply in replies] == [(422, "container_not_allowed")] * 3
    errors = [reply.json["errors"][0] for reply in replies]
    prefixes = ["", "", "/pools/0"]
    assert [each["field"] for each in errors] == [f"{prefix}/containers/{field}" for prefix in prefixes]
    assert all("EXITPLANE_CONTAINER_POLICY" in each["hint"] for each in errors)


async def test_operator_of_one_fleet_does_not_rename_it(demo, make_operator):
    """Its name selects what it may use, and the folder of its secrets."""
    fleet = (await demo("GET", "/api/v1/fleets/demo")).json["id"]
    limited = demo.holding((await make_operator("limited", "operator", fleet_ids=[fleet])).key)
    reply = await limited("PATCH", "/api/v1/fleets/demo", {"name": "other"})
    assert (reply.status, reply.json["code"]) == (403, "not_allowed")
    assert (await limited("PATCH", "/api/v1/fleets/demo", {"name": "demo"})).status == 200
    assert (await demo("PATCH", "/api/v1/fleets/demo", {"name": "other"})).status == 200


async def test_stored_containers_that_are_allowed_no_more_stay(contained, make_api, database):
    api = make_api(database, container_policy=ContainerPolicy())
    assert (await api("PATCH", f"{POOLS}/us", {"city": "reno", "containers": FULL})).status == 200
    assert (await api("PATCH", f"{POOLS}/us", {"containers": WANTED | {"maximum": 4}})).status == 422


async def test_pool_without_containers_shows_null(demo):
    shown = (await demo("GET", f"{POOLS}/us")).json
    assert (shown["containers"], shown["containers_state"]) == (None, None)


async def test_document_carries_containers(contained):
    document = (await contained("GET", "/api/v1/declared")).json
    assert document["pools"][0]["containers"] == FULL
    reply = await contained("PUT", "/api/v1/declared", document)
    assert (reply.status, reply.json["steps"]) == (200, [])
    document["pools"][0]["containers"]["maximum"] = 5
    assert (await contained("PUT", "/api/v1/declared", document)).json["steps"][0]["action"] == "changed"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"minimum": 4}, "/containers"),
        ({"minimum": -1}, "/containers/minimum"),
        ({"maximum": 101}, "/containers/maximum"),
        ({"image": "a b"}, "/containers/image"),
        ({"image": ""}, "/containers/image"),
        ({"environment": {"WIREGUARD_PRIVATE_KEY": "x"}}, None),
        ({"environment": {"OPENVPN_PASSWORD": "x"}}, None),
        ({"environment": {"A=B": "x"}}, None),
        ({"secrets": ["../shadow"]}, "/containers/secrets/0"),
        ({"secrets": ["/etc/shadow"]}, "/containers/secrets/0"),
        ({"capabilities": ["SYS_ADMIN"]}, "/containers/capabilities/0"),
        ({"devices": ["/dev/sda"]}, "/containers/devices/0"),
        ({"network": "host"}, "/containers/network"),
        ({"network": "container:other"}, "/containers/network"),
        ({"address": "203.0.113.5", "port": 65_534}, "/containers"),
        ({"requests_per_exit": 0}, "/containers/requests_per_exit"),
        ({"drain_s": -1}, "/containers/drain_s"),
        ({"privileged": True}, "/containers/privileged"),
        ({"command": ["x\0"]}, "/containers/command/0"),
    ],
)
async def test_bad_containers_are_refused_with_field_and_hint(demo, stored, fields, field):
    before = await stored()
    reply = await demo("PATCH", f"{POOLS}/us", {"containers": WANTED | fields})
    (error,) = reply.json["errors"]
    assert (reply.status, bool(error["hint"])) == (422, True)
    assert field in (None, error["field"])
    assert await stored() == before


async def test_variable_with_secret_file_path_is_accepted(demo):
    fields = {"environment": {"WIREGUARD_PRIVATE_KEY_SECRETFILE": "/run/secrets/key"}, "secrets": ["key"]}
    assert (await demo("PATCH", f"{POOLS}/us", {"containers": WANTED | fields})).status == 200


# -- state -------------------------------------------------------------------------------------------------------------


async def test_pool_shows_missing_engine(contained, clock, database):
    state = (await contained("GET", f"{POOLS}/us")).json["containers_state"]
    assert (state["wanted"], state["running"], state["error_since"]) == (1, 0, None)
    assert "EXITPLANE_CONTAINER_ENGINE" in state["error"]
    async with database.session() as session:
        await containers.record_engine(session, "unix:///run/engine.sock", clock(), "")
    assert (await contained("GET", f"{POOLS}/us")).json["containers_state"]["error"] == ""
    clock.advance(minutes=5)
    assert "EXITPLANE_CONTAINER_ENGINE" in (await contained("GET", f"{POOLS}/us")).json["containers_state"]["error"]


async def test_pool_shows_error_and_its_time(contained, contained_exit, clock, database):
    async with database.session() as session:
        await containers.save_pool_status(
            session,
            ContainerPoolRow(pool_id=UUID(contained_exit["pool_id"]), wanted=2, error="no image", error_since=clock()),
        )
    etag = (await contained("GET", f"{POOLS}/us")).headers["etag"]
    state = (await contained("GET", f"{POOLS}/us")).json["containers_state"]
    assert (state["wanted"], state["running"], state["error"]) == (2, 1, "no image")
    assert state["error_since"]
    async with database.session() as session:
        await containers.record_engine(session, "unix:///run/engine.sock", clock(), "the engine is away")
    shown = await contained("GET", f"{POOLS}/us")
    assert (shown.json["containers_state"]["error"], shown.headers["etag"]) == ("the engine is away", etag)


async def test_containers_are_listed_with_their_exits(contained, contained_exit):
    (listed,) = (await contained("GET", f"{POOLS}/us/containers")).json["containers"]
    assert (listed["name"], listed["state"], listed["exit_id"], listed["exit_state"]) == (
        *("us-1", "running", contained_exit["id"], "registering"),
    )


# -- commands ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
async def test_exit_command_is_stored_and_audited(contained, contained_exit, database, query, verb):
    reply = await contained("POST", f"{EXITS}/us-1/{verb}")
    assert (reply.status, [each["verb"] for each in reply.json["commands"]]) == (202, [verb])
    assert await read_commands(database) == [("us-1", verb, False)]
    (entry,) = await query("SELECT action FROM audit_event WHERE kind = 'container'")
    assert entry["action"] == verb
    (listed,) = (await contained("GET", f"{POOLS}/us/containers")).json["containers"]
    assert (listed["last_command"]["verb"], listed["last_command"]["done_at"]) == (verb, None)


async def test_only_pool_restart_is_in_turn(contained, contained_exit, database):
    for verb in ("start", "stop", "restart"):
        assert (await contained("POST", f"{POOLS}/us/containers/{verb}")).status == 202
    assert sorted(await read_commands(database)) == [
        ("us-1", "restart", True),
        ("us-1", "start", False),
        ("us-1", "stop", False),
    ]


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
async def test_command_for_exit_without_container_is_refused(demo, verb):
    await demo.declare_exit(name="us-1")
    reply = await demo("POST", f"{EXITS}/us-1/{verb}")
    assert (reply.status, reply.json["code"]) == (409, "no_container")
    assert reply.json["errors"][0]["hint"]


async def test_stop_of_serving_exit_needs_approval(contained, contained_exit, database, query):
    await query("UPDATE exit SET state = 'healthy' RETURNING id")
    assert (await contained("POST", f"{EXITS}/us-1/stop")).json["code"] == "would_shrink"
    assert await read_commands(database) == []
    assert (await contained("POST", f"{EXITS}/us-1/stop?approve=shrink")).status == 202


async def test_stop_of_unused_exit_needs_no_approval(contained, contained_exit, query):
    await query("UPDATE exit SET state = 'healthy', endpoint = NULL RETURNING id")
    assert (await contained("POST", f"{EXITS}/us-1/stop")).status == 202


async def test_dry_run_stores_no_command(contained, contained_exit, database):
    reply = await contained("POST", f"{EXITS}/us-1/restart?dry_run=true")
    assert (reply.status, reply.json["status"]) == (200, 202)
    assert await read_commands(database) == []


async def test_pool_without_containers_drains_its_exits(contained, contained_exit, database, query):
    await query("UPDATE exit SET state = 'healthy' RETURNING id")
    assert (await contained("PATCH", f"{POOLS}/us", {"containers": None})).json["code"] == "would_shrink"
    assert (await contained("PATCH", f"{POOLS}/us?approve=shrink", {"containers": None})).status == 200
    shown = (await contained("GET", f"{EXITS}/us-1")).json
    assert (shown["state"], shown["state_reason"]) == ("draining", "its pool has no containers any more")
    (listed,) = (await contained("GET", f"{POOLS}/us/containers")).json["containers"]
    assert listed["leaving_since"]


async def test_pool_with_containers_is_not_deleted(contained, contained_exit):
    reply = await contained("DELETE", f"{POOLS}/us?approve=shrink")
    assert (reply.status, '"containers": null' in reply.json["errors"][0]["hint"]) == (409, True)


async def test_logs_come_from_replica_with_engine(contained, contained_exit, database, clock, until):
    asking = asyncio.create_task(contained("GET", f"{EXITS}/us-1/container/logs?lines=7"))

    async def asked():
        async with database.session() as session:
            return await container_commands.pending(session)

    (command,) = await until(asked)
    assert (command.verb, command.lines) == ("logs", 7)
    async with database.session() as session:
        await container_commands.complete(session, command.id, clock(), answer="a line\n")
    reply = await asking
    assert (reply.status, reply.json) == (200, {"container": "us-1", "text": "a line\n"})
    async with database.session() as session:
        assert (await session.execute(select(ContainerCommandRow))).all() == []


async def test_logs_without_engine_are_refused(contained, contained_exit, monkeypatch):
    monkeypatch.setattr(service, "_LOGS_TIMEOUT_S", 0.1)
    reply = await contained("GET", f"{EXITS}/us-1/container/logs")
    assert (reply.status, reply.json["code"]) == (503, "no_container_engine")
    assert "EXITPLANE_CONTAINER_ENGINE" in reply.json["hint"]


# -- tokens for one name -----------------------------------------------------------------------------------------------


@pytest.fixture
async def token(make_token):
    """A token for the name `exit-1` only, as a container gets it."""
    return await make_token(Role.EXIT, uses=1, proxy_name="exit-1", takes_over=True)


async def test_token_for_one_name_enrols_no_other(demo, token, make_proxy, stored):
    before = await stored()
    reply = await make_proxy(Role.EXIT).enrol(token, name="exit-2")
    assert (reply.status, reply.json["code"]) == (403, "join_token_of_another_name")
    assert await stored() == before


async def test_token_for_one_name_takes_one_key_repeatedly(demo, token, make_proxy, stored):
    first = make_proxy(Role.EXIT)
    for _ in range(2):
        assert (await first.enrol(token, name="exit-1")).status == 201
    before = await stored()
    reply = await make_proxy(Role.EXIT).enrol(token, name="exit-1")
    assert (reply.status, reply.json["code"]) == (409, "join_token_used_up")
    assert await stored() == before
