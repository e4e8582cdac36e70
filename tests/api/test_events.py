"""Events: a reader gets every change once and in order, at any replica and after any reconnect."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID, uuid4

import aiohttp
import pytest
import uvicorn

from api.runtime.event_hub import EventHub
from api.runtime.tokens import digest_of, new_key
from model.exit_states import ExitState
from model.repositories import declared, events, exits, operators
from model.repositories.events import Event, EventFilter
from model.tables import ApiKeyRow, ExitRow, FleetRow
from model.unit_of_work import write
from model.world import Kind

pytestmark = pytest.mark.postgres
PATH = "/api/v1/events"
FLEET = {"name": "demo", "listener": {"address": "127.0.0.1", "port": 8080}}


@dataclass
class RecordedStream:
    """The blocks that one stream sent. Clearing `taking` makes the client stop reading."""

    chunks: list = field(default_factory=list)
    status: int = 0
    headers: dict = field(default_factory=dict)
    taking: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    task: asyncio.Task | None = None

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        await self.taking.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        self.chunks.append(message.get("body", b"").decode())
        self.ended = not message.get("more_body")

    @property
    def blocks(self):
        """The blocks as dictionaries; a comment is under the empty name."""
        texts = [text for text in "".join(self.chunks).split("\n\n") if text]
        return [dict(line.split(": ", 1) for line in text.replace("\n: ", "\n: ").split("\n")) for text in texts]

    @property
    def events(self):
        return [json.loads(block["data"]) for block in self.blocks if "data" in block]

    @property
    def ids(self):
        return [event["id"] for event in self.events]

    @property
    def last_id(self):
        return self.blocks[-1]["id"]

    @property
    def problem(self):
        return json.loads("".join(self.chunks))

    async def leave(self):
        self.gone.set()
        await self.task


@pytest.fixture
async def listen(until):
    """`await listen(api, last=…, query=…)`: a stream that has begun; with `wait=False` any reply is accepted."""
    opened = []

    async def begin(api, *, last=None, query="", wait=True, credential=None):
        stream = RecordedStream()
        stream.taking.set()
        headers = [(b"host", b"localhost"), (b"accept", b"text/event-stream")]
        headers.append((b"authorization", f"Bearer {credential or api.credential}".encode()))
        if last is not None:
            headers.append((b"last-event-id", str(last).encode()))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
        }
        stream.task = asyncio.create_task(api.app(scope, stream.receive, stream.send))
        opened.append(stream)
        await until(lambda: stream.chunks)
        assert stream.status == 200 or not wait, stream.chunks
        return stream

    yield begin
    for stream in opened:
        stream.taking.set()
        with suppress(Exception):
            await stream.leave()


def replace_hub(api, **settings):
    """Replace the EventHub of the replica by one with other settings."""
    api.app.state.event_hub = EventHub(api.context.database, **settings)
    return api.app.state.event_hub


async def touch(database, *, fleet_id=None, kind=Kind.PLAN, action="created", **detail):
    async with write(database) as unit:
        unit.touch(kind, uuid4(), action, fleet_id=fleet_id, detail=detail)
    return unit.revision


# -- content -----------------------------------------------------------------------------------------------------------


async def test_stream_delivers_write_as_it_happens(api, listen, until):
    stream = await listen(api)
    assert stream.headers["content-type"].startswith("text/event-stream")
    made = await api("POST", "/api/v1/fleets", FLEET)
    await until(lambda: len(stream.events) == 2)
    first = stream.events[0]
    assert stream.blocks[1]["event"] == "fleet.created"
    assert stream.blocks[1]["id"] == str(first["id"])
    assert set(first) == {"id", "at", "revision", "kind", "action", "object_id", "fleet_id", "name", "changes"}
    assert (first["object_id"], first["fleet_id"]) == (made.json["id"], made.json["id"])
    assert (first["revision"], first["name"]) == (made.revision, "demo")
    assert stream.blocks[2]["event"] == "listener.created"
    assert stream.events[1]["changes"]["port"] == [None, 8080]


async def test_change_has_before_and_after_and_deletion_has_name(demo, listen, until):
    stream = await listen(demo, query="kind=pool")
    assert (await demo("PATCH", "/api/v1/pools/us", {"name": "usa"})).status == 200
    assert (await demo("DELETE", "/api/v1/pools/usa?approve=shrink")).status == 204
    await until(lambda: len(stream.events) == 2)
    changed, deleted = stream.events
    assert (changed["kind"], changed["action"], changed["changes"]) == ("pool", "changed", {"name": ["us", "usa"]})
    assert (deleted["action"], deleted["name"], deleted["changes"]) == ("deleted", "usa", {})


async def test_state_change_by_keeper_is_an_event(demo, database, clock, listen, until):
    made = await demo.declare_exit()
    stream = await listen(demo)
    async with write(database) as unit:
        exit_id = UUID(made["id"])
        row = (await unit.session.get(ExitRow, exit_id)).state
        await exits.change_state(unit, exit_id, ExitState(row), ExitState.LOST, "silent", clock())
    await until(lambda: stream.events)
    (event,) = stream.events
    assert (event["kind"], event["action"], event["name"]) == ("exit", "changed", "us-1")
    assert event["changes"]["state"] == [row, "lost"]


async def test_rollout_state_is_not_an_event(demo, database, listen, until):
    stream = await listen(demo)
    async with write(database) as unit:
        unit.touch(Kind.FLEET, uuid4())
    revision = await touch(database)
    await until(lambda: stream.events)
    assert [event["revision"] for event in stream.events] == [revision]


async def test_creation_and_change_in_one_write_show_final_values(api, database):
    key = uuid4()
    async with write(database) as unit:
        unit.touch(Kind.PLAN, key, "created", detail={"id": str(key), "name": "p", "tunnels": 1, "monthly_bytes": 5})
        unit.touch(Kind.PLAN, key, "changed", detail={"name": "p", "changes": {"tunnels": [1, 2]}})
    (event,) = (await api("GET", PATH)).json["items"]
    assert (event["action"], event["changes"]) == ("created", {"tunnels": [None, 2], "monthly_bytes": [None, 5]})


# -- completeness and order --------------------------------------------------------------------------------------------


async def test_event_ids_are_assigned_in_commit_order(database, query, until):
    """Otherwise a reader could skip an id that is committed later."""
    ready, go = asyncio.Event(), asyncio.Event()

    async def first():
        async with write(database) as unit:
            unit.touch(Kind.PLAN, uuid4(), "created")
            await unit.seal()
            unit.touched.clear()  # the unit is sealed: leaving the block adds nothing
            ready.set()
            await go.wait()

    leading = asyncio.create_task(first())
    await ready.wait()
    taken = await query("SELECT last_value FROM change_id_seq")
    following = asyncio.create_task(touch(database))
    await until(lambda: _one(query, "SELECT count(*) FROM pg_locks WHERE NOT granted"))
    assert await query("SELECT last_value FROM change_id_seq") == taken
    go.set()
    await asyncio.gather(leading, following)
    assert [row["revision"] for row in await query("SELECT revision FROM change ORDER BY id")] == [1, 2]


async def _one(query, sql):
    (row,) = await query(sql)
    return next(iter(row.values()))


async def test_resumed_streams_lose_and_repeat_nothing_across_replicas(make_api, database, listen, until, query):
    replicas = [make_api(database), make_api(database)]
    for replica in replicas:
        replace_hub(replica, tail=7)
    each, writers = 25, 4

    async def write_some(number):
        for turn in range(each):
            if (number + turn) % 5 == 0:  # ids of rolled-back writes, which never become visible
                with suppress(ZeroDivisionError):
                    async with write(database) as unit:
                        unit.touch(Kind.PLAN, uuid4(), "created")
                        await unit.seal()
                        raise ZeroDivisionError
            await touch(database)

    collected, last, turn = [], 0, 0
    writing = [asyncio.create_task(write_some(number)) for number in range(writers)]
    async with asyncio.timeout(60):
        while len(collected) < each * writers:
            stream = await listen(replicas[turn % 2], last=last)
            wanted = min(1 + turn % 9, each * writers - len(collected))
            await until(lambda stream=stream, wanted=wanted: len(stream.ids) >= wanted)
            await stream.leave()
            collected += stream.ids
            last, turn = stream.last_id, turn + 1
    assert not any(await asyncio.gather(*writing))
    assert collected == [row["id"] for row in await query("SELECT id FROM change ORDER BY id")]
    assert len(collected) == each * writers


async def test_resumed_stream_reads_missed_events_from_table(demo, database, listen, until):
    replace_hub(demo, tail=3)
    begin = await listen(demo)
    await touch(database)
    await until(lambda: begin.ids)
    await begin.leave()
    for _ in range(20):
        await touch(database)
    stream = await listen(demo, last=begin.last_id)
    await until(lambda: len(stream.ids) == 20)
    assert stream.ids == sorted(set(stream.ids))
    assert stream.ids[0] == begin.ids[0] + 1


async def test_stream_cut_before_first_event_resumes_at_its_start(demo, database, listen, until):
    stream = await listen(demo)
    await stream.leave()
    assert stream.events == []
    await touch(database)
    again = await listen(demo, last=stream.last_id)
    await until(lambda: len(again.events) == 1)


async def test_stream_survives_database_outage(make_api, linked_database, listen, until):
    database, link = linked_database
    api = make_api(database)
    replace_hub(api, poll_s=0.1)
    stream = await listen(api)
    await touch(database)
    await until(lambda: len(stream.events) == 1)
    await link.cut()
    await link.restore()
    await touch(database)
    await touch(database)
    await until(lambda: len(stream.events) == 3)
    assert stream.ids == sorted(set(stream.ids))
    assert not stream.ended


async def test_stream_sends_comments_during_database_outage(make_api, linked_database, listen, until):
    database, link = linked_database
    api = make_api(database)
    replace_hub(api, keepalive_s=0.05, check_every_s=0.05, poll_s=0.1)
    stream = await listen(api)
    await link.cut()
    before = len(stream.blocks)
    await until(lambda: len(stream.blocks) > before + 3)
    await link.restore()
    await touch(database)
    await until(lambda: len(stream.events) == 1)


# -- pruned events -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def pruned(demo, database, query):
    """The ids of five more events, of which the first two are pruned."""
    for _ in range(5):
        await touch(database)
    ids = [row["id"] for row in await query("SELECT id FROM change ORDER BY id")][-5:]
    await query("DELETE FROM change WHERE id < :oldest", oldest=ids[2])
    return ids


async def test_resume_after_pruned_events_is_410(demo, pruned, listen):
    stream = await listen(demo, last=pruned[0], wait=False)
    assert (stream.status, stream.headers["content-type"]) == (410, "application/problem+json")
    assert (stream.problem["code"], stream.problem["errors"][0]["field"]) == ("events_gone", "Last-Event-ID")
    page = await demo("GET", f"{PATH}?after={pruned[0]}")
    assert (page.status, page.json["code"]) == (410, "events_gone")


async def test_resume_after_oldest_stored_event_loses_nothing(demo, pruned, listen, until):
    stream = await listen(demo, last=pruned[2])
    await until(lambda: stream.ids == pruned[3:])


async def test_reading_from_pruned_beginning_is_410(api, database, query):
    with suppress(ZeroDivisionError):
        async with write(database) as unit:
            unit.touch(Kind.PLAN, uuid4(), "created")
            await unit.seal()
            raise ZeroDivisionError
    await touch(database)
    await touch(database)
    assert len((await api("GET", f"{PATH}?after=0")).json["items"]) == 2  # although event 1 was rolled back
    await query("DELETE FROM change WHERE revision = 1")
    assert (await api("GET", f"{PATH}?after=0")).status == 410
    assert len((await api("GET", PATH)).json["items"]) == 1


async def test_event_id_of_another_database_is_410(demo, pruned, listen):
    stream = await listen(demo, last=pruned[-1] + 1, wait=False)
    assert (stream.status, stream.problem["code"]) == (410, "events_gone")


async def test_stream_overtaken_by_pruning_ends_and_resumes_as_410(demo, database, listen, query, until):
    replace_hub(demo, tail=2)
    stream = await listen(demo)
    stream.taking.clear()
    for _ in range(6):
        await touch(database)
    # the first event waits for the reader; the later ones are pruned
    hub = demo.app.state.event_hub
    newest = await _one(query, "SELECT max(id) FROM change")
    await until(lambda: hub._position == newest)
    await query("DELETE FROM change WHERE id < :newest", newest=newest)
    stream.taking.set()
    await until(lambda: stream.ended)
    assert newest not in stream.ids
    again = await listen(demo, last=stream.last_id, wait=False)
    assert again.status == 410


@pytest.mark.parametrize("given", ["abc", "-1", "1.5", "\uff19", "9223372036854775808", "1" * 21])
async def test_bad_last_event_id_is_refused(given, demo):
    headers = {"accept": "text/event-stream", "last-event-id": given.encode().decode("latin-1")}
    reply = await demo("GET", PATH, headers=headers)
    assert (reply.status, reply.is_problem) == (422, True)


# -- visibility --------------------------------------------------------------------------------------------------------


async def test_filtered_stream_still_advances_its_id(demo, database, listen, until, query):
    replace_hub(demo, keepalive_s=0.05)
    (fleet,) = await query("SELECT id FROM fleet")
    pools = await listen(demo, query="kind=pool&kind=route&fleet=demo")
    await touch(database, kind=Kind.EXIT, fleet_id=fleet["id"])
    await touch(database, kind=Kind.POOL, fleet_id=uuid4())
    await touch(database, kind=Kind.POOL, fleet_id=fleet["id"], name="seen")
    await touch(database, kind=Kind.EXIT, fleet_id=fleet["id"])
    newest = await _one(query, "SELECT max(id) FROM change")
    await until(lambda: pools.last_id == str(newest))
    assert [event["name"] for event in pools.events] == ["seen"]
    assert any("" in block and "data" not in block for block in pools.blocks)


async def test_certificate_events_use_collection_name(demo, database):
    await touch(database, kind=Kind.SERVER_CERTIFICATE, name="c")
    (event,) = (await demo("GET", f"{PATH}?kind=certificate")).json["items"]
    assert (event["kind"], event["name"]) == ("certificate", "c")


async def test_fleet_operator_sees_only_events_of_own_fleet(demo, database, make_operator, listen, until, query):
    (fleet,) = await query("SELECT id FROM fleet")
    person = await make_operator("ada", "viewer", fleet_ids=[str(fleet["id"])])
    stream = await listen(demo, credential=person.key)
    other = uuid4()
    await touch(database, fleet_id=other)
    await touch(database)
    await touch(database, fleet_id=fleet["id"], name="seen")
    await until(lambda: stream.events)
    assert [event["name"] for event in stream.events] == ["seen"]
    page = (await demo.holding(person.key)("GET", PATH)).json["items"]
    assert {event["fleet_id"] for event in page} == {str(fleet["id"])}
    assert (await demo.holding(person.key)("GET", f"{PATH}?fleet={other}")).json["items"] == []


async def test_invisible_fleet_is_unknown_in_event_query(demo, make_operator):
    person = await make_operator("ada", "viewer", fleet_ids=[str(uuid4())])
    foreign = await demo.holding(person.key)("GET", f"{PATH}?fleet=demo")
    nothing = await demo.holding(person.key)("GET", f"{PATH}?fleet=nothing")
    assert (foreign.status, foreign.json["code"]) == (nothing.status, nothing.json["code"]) == (422, "unknown_fleet")


async def test_key_without_scope_cannot_read_events(demo, database, admin):
    key = new_key()
    row = ApiKeyRow(
        operator_id=admin.id,
        name="k",
        digest=digest_of(key),
        role="admin",
        scopes=["pools:read"],
        created_at=demo.context.clock(),
    )
    async with database.session() as session:
        await operators.save(session, row)
    reply = await demo.holding(key)("GET", PATH)
    assert (reply.status, reply.json["code"]) == (403, "out_of_scope")


@pytest.mark.parametrize(
    "wanted",
    [
        EventFilter(),
        EventFilter(kinds=frozenset({"pool"})),
        EventFilter(fleets=frozenset()),
        EventFilter(fleets=frozenset({uuid4()})),
        EventFilter(kinds=frozenset({"pool"}), fleets=frozenset({uuid4()})),
    ],
)
async def test_table_and_hub_return_the_same_events(wanted, database):
    fleets = [None, uuid4(), *(wanted.fleets or ())]
    for fleet_id in fleets:
        for kind in (Kind.POOL, Kind.EXIT):
            await touch(database, kind=kind, fleet_id=fleet_id)
    async with database.session() as session:
        everything = (await events.read(session, None, 100)).events
    async with database.session() as session:
        some = (await events.read(session, None, 100, wanted)).events
    assert some == [event for event in everything if wanted.matches(event)]
    assert all(isinstance(event, Event) for event in everything)


# -- life of a stream --------------------------------------------------------------------------------------------------


async def test_idle_stream_sends_comments(demo, listen, until):
    replace_hub(demo, keepalive_s=0.02)
    stream = await listen(demo)
    await until(lambda: len(stream.blocks) >= 3)
    assert stream.events == []
    assert stream.blocks[-1][""] == "alive"


async def test_stream_ends_when_key_is_revoked(demo, database, make_operator, listen, until, query):
    replace_hub(demo, check_every_s=0.05)
    person = await make_operator("ada")
    stream = await listen(demo, credential=person.key)
    await query("DELETE FROM api_key WHERE operator_id = :id", id=person.id)
    await until(lambda: stream.ended)
    await touch(database)
    assert stream.events == []


async def test_stream_ends_when_key_expires(demo, database, make_operator, clock, listen, until, query):
    person = await make_operator("ada")
    expires = clock() + timedelta(seconds=0.2)
    await query("UPDATE api_key SET expires_at = :at WHERE operator_id = :id", at=expires, id=person.id)
    stream = await listen(demo, credential=person.key)
    clock.now = expires
    await until(lambda: stream.ended)


async def test_stream_follows_reduced_rights_of_caller(demo, database, make_operator, listen, until, query):
    replace_hub(demo, check_every_s=0.05, keepalive_s=0.05)
    person = await make_operator("ada")
    stream = await listen(demo, credential=person.key)
    mine, other = uuid4(), uuid4()
    await query("UPDATE operator SET fleet_ids = CAST(:f AS jsonb) WHERE name = 'ada'", f=json.dumps([str(mine)]))
    asked = len(stream.blocks)
    await until(lambda: len(stream.blocks) > asked + 3)
    await touch(database, fleet_id=other, name="hidden")
    await touch(database, fleet_id=mine, name="seen")
    await until(lambda: stream.events)
    assert [event["name"] for event in stream.events] == ["seen"]


async def test_replica_limits_number_of_streams(demo, listen, until):
    hub = replace_hub(demo, streams_max=2)
    first, second = await listen(demo), await listen(demo)
    third = await listen(demo, wait=False)
    assert (third.status, third.problem["code"], third.headers["retry-after"]) == (503, "too_many_streams", "5")
    await first.leave()
    await listen(demo)
    await second.leave()
    await until(lambda: hub.streams == 1)


async def test_operator_leaves_event_streams_for_others(demo, make_operator, listen):
    replace_hub(demo, streams_max=4, streams_per_operator=2)
    viewer, other = await make_operator("vi", "viewer"), await make_operator("eve", "viewer")
    first = await listen(demo, credential=viewer.key)
    await listen(demo, credential=viewer.key)
    refused = await listen(demo, credential=viewer.key, wait=False)
    assert (refused.status, refused.problem["code"]) == (429, "too_many_own_streams")
    await listen(demo, credential=other.key)
    await first.leave()
    await listen(demo, credential=viewer.key)


async def test_replica_listens_once_for_all_streams_and_not_without(demo, listen, until, query):
    count = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    count = count.replace("query LIKE 'LISTEN%'", "(query LIKE 'LISTEN%' OR query = 'SELECT 1')")
    assert await _one(query, count) == 0
    streams = [await listen(demo) for _ in range(5)]
    await until(lambda: _one(query, count))
    assert await _one(query, count) == 1
    for stream in streams:
        await stream.leave()

    async def none():
        return await _one(query, count) == 0

    await until(none)


async def test_slow_reader_buffers_one_page_and_misses_nothing(demo, database, listen, until, query):
    hub = replace_hub(demo, tail=10)
    slow, quick = await listen(demo), await listen(demo)
    slow.taking.clear()
    for _ in range(40):
        await touch(database)
    await until(lambda: len(quick.ids) == 40)
    assert len(hub._tail) == 10
    slow.taking.set()
    await until(lambda: len(slow.ids) == 40)
    assert slow.ids == quick.ids


async def test_stalled_reader_frees_its_stream_slot(demo, database, listen, until):
    hub = replace_hub(demo, stalled_after_s=0.05)
    stream = await listen(demo)
    stream.taking.clear()
    await touch(database)
    await until(lambda: hub.streams == 0)
    await stream.task


@asynccontextmanager
async def serving(api, until):
    config = uvicorn.Config(api.app, host="127.0.0.1", port=0, log_config=None, lifespan="off")
    config.timeout_graceful_shutdown = 30
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", server
    server.should_exit = True
    await task


async def test_replica_shutdown_ends_streams_in_order(demo, database, until):
    hub = replace_hub(demo)
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {demo.credential}"}
    async with serving(demo, until) as (address, server), aiohttp.ClientSession() as session:
        async with session.get(address + PATH, headers=headers) as reply:
            await touch(database)
            async for line in reply.content:
                if line.startswith(b"data: "):
                    break
            hub.close()
            server.should_exit = True
            rest = await reply.content.read()  # raises unless the end of the body was sent
        assert rest.strip() == b""
    reply = await demo("GET", PATH, headers={"accept": "text/event-stream"})
    assert (reply.status, reply.json["code"]) == (503, "too_many_streams")


# -- pages -------------------------------------------------------------------------------------------------------------


async def test_pages_continue_to_the_end_and_resume_from_last(demo, database):
    for number in range(7):
        await touch(database, name=str(number))
    names, cursor = [], ""
    while cursor is not None:
        page = (await demo("GET", f"{PATH}?kind=plan&limit=3&cursor={cursor}".removesuffix("&cursor="))).json
        names += [event["name"] for event in page["items"]]
        cursor = page["next"]
    assert names == list("0123456")
    assert (await demo("GET", f"{PATH}?after={page['last']}")).json["items"] == []
    await touch(database, name="later")
    (later,) = (await demo("GET", f"{PATH}?after={page['last']}")).json["items"]
    assert later["name"] == "later"


async def test_page_without_events(api):
    reply = await api("GET", PATH)
    assert (reply.status, reply.json) == (200, {"items": [], "next": None, "last": 0})


@pytest.mark.parametrize(
    "query",
    ["kind=nothing", "after=-1", "after=x", "limit=0", "cursor=x", "cursor=9223372036854775808", "fleet=A", "x=1"],
)
async def test_bad_events_query_is_refused(query, api):
    for accept in ("application/json", "text/event-stream"):
        reply = await api("GET", f"{PATH}?{query}", headers={"accept": accept})
        assert (reply.status, reply.is_problem) == (422, True)


async def test_events_of_deleted_fleet_are_found_by_id(api, database):
    made = (await api("POST", "/api/v1/fleets", FLEET)).json
    async with write(database) as unit:
        await declared.remove(unit, await declared.lock(unit.session, FleetRow, made["id"]))
    page = (await api("GET", f"{PATH}?fleet={made['id']}&kind=fleet")).json["items"]
    assert [event["action"] for event in page] == ["created", "deleted"]


async def test_openapi_documents_event_stream(api):
    operation = (await api("GET", "/openapi.json")).json["paths"][PATH]["get"]
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert {"401", "403", "410", "422", "503"} <= set(operation["responses"])
    assert "Last-Event-ID" in {each["name"].title().replace("Id", "ID") for each in operation["parameters"]}
