"""The health endpoints: liveness, startup and readiness."""

from __future__ import annotations

import asyncio

from sqlalchemy import event

from model.database import Database

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


async def test_healthy_process_is_ready(make_api, database):
    api = make_api(database, readiness_checks={"xds": lambda: True})
    parts = {"database": {"ok": True, "reason": ""}, "xds": {"ok": True, "reason": ""}}
    whole = {"ok": True, "parts": parts, "connections": {}}
    for path in ("/health", "/health/ready"):
        reply = await api("GET", path)
        assert (reply.status, reply.json) == (200, whole)
    assert (await api("GET", "/health/startup")).status == 200


async def test_process_without_database_is_live_but_not_ready(make_api):
    api = make_api(Database(NOWHERE))
    alive, ready = await api("GET", "/health"), await api("GET", "/health/ready")
    assert (alive.status, ready.status) == (200, 503)
    assert alive.json == ready.json
    assert alive.json["ok"] is False
    assert "PostgreSQL cannot be reached" in alive.json["parts"]["database"]["reason"]
    assert (await api("GET", "/health/startup")).status == 200


async def test_component_that_is_not_ready_makes_process_not_ready(make_api, database):
    ready = {"xds": False}
    api = make_api(database, readiness_checks={"xds": lambda: ready["xds"], "keeper": lambda: True})
    reply = await api("GET", "/health/ready")
    assert reply.status == 503
    assert [name for name, part in reply.json["parts"].items() if not part["ok"]] == ["xds"]
    ready["xds"] = True
    assert (await api("GET", "/health/ready")).status == 200


async def test_startup_turns_ok_after_start(make_api, database):
    started = []
    api = make_api(database, has_started=lambda: bool(started))
    assert (await api("GET", "/health/startup")).status == 503
    started.append(1)
    assert (await api("GET", "/health/startup")).status == 200


async def test_probe_asks_database_at_most_once_a_second(api, database, clock):
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


async def test_readiness_follows_database_within_a_second(linked_database, make_api, clock):
    database, link = linked_database
    api = make_api(database)
    seen = []
    for step in (lambda: asyncio.sleep(0), link.cut, link.restore):
        await step()
        clock.advance(seconds=1)
        seen.append((await api("GET", "/health/ready")).status)
    assert seen == [200, 503, 200]


async def test_unresponsive_database_is_not_ready(make_api, clock):
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
