"""Events: whoever follows them learns of every change once, in order, wherever and however often they connect."""

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
class Heard:
    """What one stream sent, block by block; `blocked` is a client that takes nothing."""

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
        """The blocks as dictionaries; a comment's is under the empty name."""
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
    """`await listen(api, last=…, query=…)`: a stream that has begun, unless it is told not to wait for that."""
    opened = []

    async def begin(api, *, last=None, query="", wait=True, credential=None):
        heard = Heard()
        heard.taking.set()
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
        heard.task = asyncio.create_task(api.app(scope, heard.receive, heard.send))
        opened.append(heard)
        await until(lambda: heard.chunks)
        assert heard.status == 200 or not wait, heard.chunks
        return heard

    yield begin
    for heard in opened:
        heard.taking.set()
        with suppress(Exception):
            await heard.leave()


def give_hub(api, **settings):
    """Replace what the replica's streams share by one with other settings."""
    api.app.state.events = EventHub(api.context.database, **settings)
    return api.app.state.events


async def touch(database, *, fleet_id=None, kind=Kind.PLAN, action="created", **detail):
    async with write(database) as unit:
        unit.touch(kind, uuid4(), action, fleet_id=fleet_id, detail=detail)
    return unit.revision


# -- what they say -----------------------------------------------------------------------------------------------------


async def test_a_write_is_told_as_it_happens(api, listen, until):
    heard = await listen(api)
    assert heard.headers["content-type"].startswith("text/event-stream")
    made = await api("POST", "/api/v1/fleets", FLEET)
    await until(lambda: len(heard.events) == 2)
    first = heard.events[0]
    assert heard.blocks[1]["event"] == "fleet.created"
    assert heard.blocks[1]["id"] == str(first["id"])
    assert set(first) == {"id", "at", "revision", "kind", "action", "object_id", "fleet_id", "name", "changes"}
    assert (first["object_id"], first["fleet_id"]) == (made.json["id"], made.json["id"])
    assert (first["revision"], first["name"]) == (made.revision, "demo")
    assert heard.blocks[2]["event"] == "listener.created"
    assert heard.events[1]["changes"]["port"] == [None, 8080]


async def test_a_change_says_what_was_and_what_is_and_a_removal_says_the_name(demo, listen, until):
    heard = await listen(demo, query="kind=pool")
    assert (await demo("PATCH", "/api/v1/pools/us", {"name": "usa"})).status == 200
    assert (await demo("DELETE", "/api/v1/pools/usa?approve=shrink")).status == 204
    await until(lambda: len(heard.events) == 2)
    changed, deleted = heard.events
    assert (changed["kind"], changed["action"], changed["changes"]) == ("pool", "changed", {"name": ["us", "usa"]})
    assert (deleted["action"], deleted["name"], deleted["changes"]) == ("deleted", "usa", {})


async def test_what_the_keeper_finds_out_about_an_exit_is_an_event(demo, database, clock, listen, until):
    made = await demo.declare_exit()
    heard = await listen(demo)
    async with write(database) as unit:
        exit_id = UUID(made["id"])
        row = (await unit.session.get(ExitRow, exit_id)).state
        await exits.change_state(unit, exit_id, ExitState(row), ExitState.LOST, "silent", clock())
    await until(lambda: heard.events)
    (event,) = heard.events
    assert (event["kind"], event["action"], event["name"]) == ("exit", "changed", "us-1")
    assert event["changes"]["state"] == [row, "lost"]


async def test_rollout_state_is_no_event(demo, database, listen, until):
    heard = await listen(demo)
    async with write(database) as unit:
        unit.touch(Kind.FLEET, uuid4())
    revision = await touch(database)
    await until(lambda: heard.events)
    assert [event["revision"] for event in heard.events] == [revision]


async def test_what_was_created_and_changed_in_one_write_says_what_it_is_in_the_end(api, database):
    key = uuid4()
    async with write(database) as unit:
        unit.touch(Kind.PLAN, key, "created", detail={"id": str(key), "name": "p", "tunnels": 1, "monthly_bytes": 5})
        unit.touch(Kind.PLAN, key, "changed", detail={"name": "p", "changes": {"tunnels": [1, 2]}})
    (event,) = (await api("GET", PATH)).json["items"]
    assert (event["action"], event["changes"]) == ("created", {"tunnels": [None, 2], "monthly_bytes": [None, 5]})


# -- nothing lost, nothing twice ---------------------------------------------------------------------------------------


async def test_a_writer_gets_no_ids_before_those_ahead_of_it_are_committed(database, query, until):
    """Otherwise a reader could pass by an id that is committed later."""
    ready, go = asyncio.Event(), asyncio.Event()

    async def first():
        async with write(database) as unit:
            unit.touch(Kind.PLAN, uuid4(), "created")
            await unit.seal()
            unit.touched.clear()  # it is sealed: leaving the block adds nothing
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


async def test_nothing_is_lost_and_nothing_comes_twice_across_replicas_reconnects_and_writers_at_once(
    make_api, database, listen, until, query
):
    replicas = [make_api(database), make_api(database)]
    for replica in replicas:
        give_hub(replica, tail=7)
    each, writers = 25, 4

    async def write_some(number):
        for turn in range(each):
            if (number + turn) % 5 == 0:  # ids that nobody ever sees
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
            heard = await listen(replicas[turn % 2], last=last)
            wanted = min(1 + turn % 9, each * writers - len(collected))
            await until(lambda heard=heard, wanted=wanted: len(heard.ids) >= wanted)
            await heard.leave()
            collected += heard.ids
            last, turn = heard.last_id, turn + 1
    assert not any(await asyncio.gather(*writing))
    assert collected == [row["id"] for row in await query("SELECT id FROM change ORDER BY id")]
    assert len(collected) == each * writers


async def test_who_was_away_reads_on_from_the_table(demo, database, listen, until):
    give_hub(demo, tail=3)
    begin = await listen(demo)
    await touch(database)
    await until(lambda: begin.ids)
    await begin.leave()
    for _ in range(20):
        await touch(database)
    heard = await listen(demo, last=begin.last_id)
    await until(lambda: len(heard.ids) == 20)
    assert heard.ids == sorted(set(heard.ids))
    assert heard.ids[0] == begin.ids[0] + 1


async def test_who_is_cut_off_before_the_first_event_comes_back_to_where_they_began(demo, database, listen, until):
    heard = await listen(demo)
    await heard.leave()
    assert heard.events == []
    await touch(database)
    again = await listen(demo, last=heard.last_id)
    await until(lambda: len(again.events) == 1)


async def test_a_stream_outlives_an_outage_of_the_database(make_api, wired, listen, until):
    database, wire = wired
    api = make_api(database)
    give_hub(api, poll_s=0.1)
    heard = await listen(api)
    await touch(database)
    await until(lambda: len(heard.events) == 1)
    await wire.cut()
    await wire.mend()
    await touch(database)
    await touch(database)
    await until(lambda: len(heard.events) == 3)
    assert heard.ids == sorted(set(heard.ids))
    assert not heard.ended


async def test_a_stream_says_that_it_is_alive_while_the_database_is_not(make_api, wired, listen, until):
    database, wire = wired
    api = make_api(database)
    give_hub(api, keepalive_s=0.05, check_every_s=0.05, poll_s=0.1)
    heard = await listen(api)
    await wire.cut()
    before = len(heard.blocks)
    await until(lambda: len(heard.blocks) > before + 3)
    await wire.mend()
    await touch(database)
    await until(lambda: len(heard.events) == 1)


# -- what is not kept any more -----------------------------------------------------------------------------------------


@pytest.fixture
async def pruned(demo, database, query):
    """Five more events, of which the log has forgotten the first two; the ids of the five."""
    for _ in range(5):
        await touch(database)
    ids = [row["id"] for row in await query("SELECT id FROM change ORDER BY id")][-5:]
    await query("DELETE FROM change WHERE id < :oldest", oldest=ids[2])
    return ids


async def test_who_comes_back_too_late_is_told_so(demo, pruned, listen):
    heard = await listen(demo, last=pruned[0], wait=False)
    assert (heard.status, heard.headers["content-type"]) == (410, "application/problem+json")
    assert (heard.problem["code"], heard.problem["errors"][0]["field"]) == ("events_gone", "Last-Event-ID")
    page = await demo("GET", f"{PATH}?after={pruned[0]}")
    assert (page.status, page.json["code"]) == (410, "events_gone")


async def test_who_has_one_that_is_kept_has_lost_nothing(demo, pruned, listen, until):
    heard = await listen(demo, last=pruned[2])
    await until(lambda: heard.ids == pruned[3:])


async def test_who_asks_for_all_since_the_beginning_is_told_that_the_beginning_is_gone(api, database, query):
    with suppress(ZeroDivisionError):
        async with write(database) as unit:
            unit.touch(Kind.PLAN, uuid4(), "created")
            await unit.seal()
            raise ZeroDivisionError
    await touch(database)
    await touch(database)
    assert len((await api("GET", f"{PATH}?after=0")).json["items"]) == 2  # although there is no event 1
    await query("DELETE FROM change WHERE revision = 1")
    assert (await api("GET", f"{PATH}?after=0")).status == 410
    assert len((await api("GET", PATH)).json["items"]) == 1


async def test_an_event_that_the_log_never_had_was_of_another_database(demo, pruned, listen):
    heard = await listen(demo, last=pruned[-1] + 1, wait=False)
    assert (heard.status, heard.problem["code"]) == (410, "events_gone")


async def test_a_reader_that_the_log_overtakes_is_ended_and_told_when_it_comes_back(
    demo, database, listen, query, until
):
    give_hub(demo, tail=2)
    heard = await listen(demo)
    heard.taking.clear()
    for _ in range(6):
        await touch(database)
    # the first of them waits for the reader to take it; the log has forgotten what followed
    hub = demo.app.state.events
    newest = await _one(query, "SELECT max(id) FROM change")
    await until(lambda: hub._position == newest)
    await query("DELETE FROM change WHERE id < :newest", newest=newest)
    heard.taking.set()
    await until(lambda: heard.ended)
    assert newest not in heard.ids
    again = await listen(demo, last=heard.last_id, wait=False)
    assert again.status == 410


@pytest.mark.parametrize("given", ["abc", "-1", "1.5", "\uff19", "9223372036854775808", "1" * 21])
async def test_what_is_no_id_is_refused(given, demo):
    headers = {"accept": "text/event-stream", "last-event-id": given.encode().decode("latin-1")}
    reply = await demo("GET", PATH, headers=headers)
    assert (reply.status, reply.is_problem) == (422, True)


# -- who is shown what -------------------------------------------------------------------------------------------------


async def test_filters_leave_the_rest_out_and_the_id_moves_on_all_the_same(demo, database, listen, until, query):
    give_hub(demo, keepalive_s=0.05)
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


async def test_the_events_of_certificates_have_the_name_of_their_collection(demo, database):
    await touch(database, kind=Kind.SERVER_CERTIFICATE, name="c")
    (event,) = (await demo("GET", f"{PATH}?kind=certificate")).json["items"]
    assert (event["kind"], event["name"]) == ("certificate", "c")


async def test_who_is_for_one_fleet_is_shown_nothing_of_another_and_nothing_of_none(
    demo, database, make_operator, listen, until, query
):
    (fleet,) = await query("SELECT id FROM fleet")
    person = await make_operator("ada", "viewer", fleet_ids=[str(fleet["id"])])
    heard = await listen(demo, credential=person.key)
    other = uuid4()
    await touch(database, fleet_id=other)
    await touch(database)
    await touch(database, fleet_id=fleet["id"], name="seen")
    await until(lambda: heard.events)
    assert [event["name"] for event in heard.events] == ["seen"]
    page = (await demo.holding(person.key)("GET", PATH)).json["items"]
    assert {event["fleet_id"] for event in page} == {str(fleet["id"])}
    assert (await demo.holding(person.key)("GET", f"{PATH}?fleet={other}")).json["items"] == []


async def test_a_fleet_that_one_does_not_see_is_as_good_as_none(demo, make_operator):
    person = await make_operator("ada", "viewer", fleet_ids=[str(uuid4())])
    foreign = await demo.holding(person.key)("GET", f"{PATH}?fleet=demo")
    nothing = await demo.holding(person.key)("GET", f"{PATH}?fleet=nothing")
    assert (foreign.status, foreign.json["code"]) == (nothing.status, nothing.json["code"]) == (422, "unknown_fleet")


async def test_a_key_without_the_scope_reads_no_events(demo, database, admin):
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
async def test_the_table_and_the_memory_give_the_same_events(wanted, database):
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


# -- how long a stream lasts -------------------------------------------------------------------------------------------


async def test_a_stream_says_that_it_is_alive(demo, listen, until):
    give_hub(demo, keepalive_s=0.02)
    heard = await listen(demo)
    await until(lambda: len(heard.blocks) >= 3)
    assert heard.events == []
    assert heard.blocks[-1][""] == "alive"


async def test_a_stream_ends_when_its_key_is_revoked(demo, database, make_operator, listen, until, query):
    give_hub(demo, check_every_s=0.05)
    person = await make_operator("ada")
    heard = await listen(demo, credential=person.key)
    await query("DELETE FROM api_key WHERE operator_id = :id", id=person.id)
    await until(lambda: heard.ended)
    await touch(database)
    assert heard.events == []


async def test_a_stream_ends_when_its_key_expires(demo, database, make_operator, clock, listen, until, query):
    person = await make_operator("ada")
    expires = clock() + timedelta(seconds=0.2)
    await query("UPDATE api_key SET expires_at = :at WHERE operator_id = :id", at=expires, id=person.id)
    heard = await listen(demo, credential=person.key)
    clock.now = expires
    await until(lambda: heard.ended)


async def test_a_stream_shows_less_as_soon_as_its_caller_may_see_less(
    demo, database, make_operator, listen, until, query
):
    give_hub(demo, check_every_s=0.05, keepalive_s=0.05)
    person = await make_operator("ada")
    heard = await listen(demo, credential=person.key)
    mine, other = uuid4(), uuid4()
    await query("UPDATE operator SET fleet_ids = CAST(:f AS jsonb) WHERE name = 'ada'", f=json.dumps([str(mine)]))
    asked = len(heard.blocks)
    await until(lambda: len(heard.blocks) > asked + 3)
    await touch(database, fleet_id=other, name="hidden")
    await touch(database, fleet_id=mine, name="seen")
    await until(lambda: heard.events)
    assert [event["name"] for event in heard.events] == ["seen"]


async def test_a_replica_has_so_many_streams_and_no_more(demo, listen, until):
    hub = give_hub(demo, streams_max=2)
    first, second = await listen(demo), await listen(demo)
    third = await listen(demo, wait=False)
    assert (third.status, third.problem["code"], third.headers["retry-after"]) == (503, "too_many_streams", "5")
    await first.leave()
    await listen(demo)
    await second.leave()
    await until(lambda: hub.streams == 1)


async def test_a_replica_listens_once_however_many_streams_there_are_and_not_at_all_without(demo, listen, until, query):
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


async def test_a_slow_reader_has_a_page_in_memory_and_misses_nothing(demo, database, listen, until, query):
    hub = give_hub(demo, tail=10)
    slow, quick = await listen(demo), await listen(demo)
    slow.taking.clear()
    for _ in range(40):
        await touch(database)
    await until(lambda: len(quick.ids) == 40)
    assert len(hub._tail) == 10
    slow.taking.set()
    await until(lambda: len(slow.ids) == 40)
    assert slow.ids == quick.ids


async def test_a_reader_that_takes_nothing_gives_up_its_place(demo, database, listen, until):
    hub = give_hub(demo, stalled_after_s=0.05)
    heard = await listen(demo)
    heard.taking.clear()
    await touch(database)
    await until(lambda: hub.streams == 0)
    await heard.task


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


async def test_at_the_end_of_a_replica_its_streams_end_in_order(demo, database, until):
    hub = give_hub(demo)
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {demo.credential}"}
    async with serving(demo, until) as (address, server), aiohttp.ClientSession() as session:
        async with session.get(address + PATH, headers=headers) as reply:
            await touch(database)
            async for line in reply.content:
                if line.startswith(b"data: "):
                    break
            hub.close()
            server.should_exit = True
            rest = await reply.content.read()  # raises, unless the end of the body was sent
        assert rest.strip() == b""
    reply = await demo("GET", PATH, headers={"accept": "text/event-stream"})
    assert (reply.status, reply.json["code"]) == (503, "too_many_streams")


# -- pages -------------------------------------------------------------------------------------------------------------


async def test_pages_follow_each_other_to_the_end_and_go_on_from_there(demo, database):
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


async def test_a_page_of_nothing(api):
    reply = await api("GET", PATH)
    assert (reply.status, reply.json) == (200, {"items": [], "next": None, "last": 0})


@pytest.mark.parametrize(
    "query",
    ["kind=nothing", "after=-1", "after=x", "limit=0", "cursor=x", "cursor=9223372036854775808", "fleet=A", "x=1"],
)
async def test_a_bad_query_is_refused(query, api):
    for accept in ("application/json", "text/event-stream"):
        reply = await api("GET", f"{PATH}?{query}", headers={"accept": accept})
        assert (reply.status, reply.is_problem) == (422, True)


async def test_events_of_a_fleet_that_is_gone_are_found_by_its_id(api, database):
    made = (await api("POST", "/api/v1/fleets", FLEET)).json
    async with write(database) as unit:
        await declared.remove(unit, await declared.lock(unit.session, FleetRow, made["id"]))
    page = (await api("GET", f"{PATH}?fleet={made['id']}&kind=fleet")).json["items"]
    assert [event["action"] for event in page] == ["created", "deleted"]


async def test_the_document_says_that_it_may_be_a_stream(api):
    operation = (await api("GET", "/openapi.json")).json["paths"][PATH]["get"]
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert {"401", "403", "410", "422", "503"} <= set(operation["responses"])
    assert "Last-Event-ID" in {each["name"].title().replace("Id", "ID") for each in operation["parameters"]}
