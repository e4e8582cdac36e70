"""Whether the process lives, has started and can work."""

from __future__ import annotations

import asyncio

from sqlalchemy import event

from model.database import Database

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


async def test_all_is_well(make_api, database):
    api = make_api(database, readiness_checks={"xds": lambda: True})
    whole = {"ok": True, "parts": {"database": {"ok": True, "reason": ""}, "xds": {"ok": True, "reason": ""}}}
    for path in ("/health", "/health/ready"):
        reply = await api("GET", path)
        assert (reply.status, reply.json) == (200, whole)
    assert (await api("GET", "/health/startup")).status == 200


async def test_without_the_database_the_process_lives_but_is_not_ready(make_api):
    api = make_api(Database(NOWHERE))
    alive, ready = await api("GET", "/health"), await api("GET", "/health/ready")
    assert (alive.status, ready.status) == (200, 503)
    assert alive.json == ready.json
    assert alive.json["ok"] is False
    assert "PostgreSQL cannot be reached" in alive.json["parts"]["database"]["reason"]
    assert (await api("GET", "/health/startup")).status == 200


async def test_a_component_that_is_not_ready_holds_the_whole_back(make_api, database):
    ready = {"xds": False}
    api = make_api(database, readiness_checks={"xds": lambda: ready["xds"], "keeper": lambda: True})
    reply = await api("GET", "/health/ready")
    assert reply.status == 503
    assert [name for name, part in reply.json["parts"].items() if not part["ok"]] == ["xds"]
    ready["xds"] = True
    assert (await api("GET", "/health/ready")).status == 200


async def test_startup_is_said_to_be_over_when_it_is(make_api, database):
    started = []
    api = make_api(database, has_started=lambda: bool(started))
    assert (await api("GET", "/health/startup")).status == 503
    started.append(1)
    assert (await api("GET", "/health/startup")).status == 200


async def test_the_database_is_asked_at_most_once_a_second_however_many_ask(api, database, clock):
    asked = []
    event.listen(database.engine.sync_engine, "begin", asked.append)
    await asyncio.gather(*(api("GET", "/health/ready") for _ in range(20)))
    assert len(asked) == 1
    clock.advance(seconds=0.9)
    await api("GET", "/health")
    assert len(asked) == 1
    clock.advance(seconds=0.2)
    await api("GET", "/health")
    assert len(asked) == 2


async def test_readiness_follows_the_database_within_a_second(wired, make_api, clock):
    database, wire = wired
    api = make_api(database)
    seen = []
    for step in (lambda: asyncio.sleep(0), wire.cut, wire.mend):
        await step()
        clock.advance(seconds=1)
        seen.append((await api("GET", "/health/ready")).status)
    assert seen == [200, 503, 200]


async def test_a_database_that_does_not_answer_is_away_too(make_api, clock):
    async def never_answer(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    api = make_api(Database(f"postgresql://nobody@127.0.0.1:{port}/nothing"))
    reply = await api("GET", "/health/ready")
    assert reply.status == 503
    assert "within 1 s" in reply.json["parts"]["database"]["reason"]
    server.close()
