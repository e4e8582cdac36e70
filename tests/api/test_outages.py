"""The API while PostgreSQL cannot be reached, and after it is back."""

from __future__ import annotations

import asyncio

import pytest

from model.database import Database

FLEET = {"name": "demo", "listener": {"address": "127.0.0.1", "port": 8080}}
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/v1/fleets", None),
        ("GET", "/api/v1/exits/00000000-0000-4000-8000-000000000000", None),
        ("POST", "/api/v1/fleets", FLEET),
        ("PATCH", "/api/v1/fleets/demo", {"name": "other"}),
        ("DELETE", "/api/v1/pools/us", None),
        ("POST", "/api/v1/proxies/register", {"join_token": "t", "csr": "c", "name": "a"}),
    ],
)
async def test_outage_is_503_with_reason_and_retry_after(method, path, body, make_api):
    api = make_api(Database(NOWHERE))
    reply = await api(method, path, body)
    assert (reply.status, reply.is_problem, reply.json["code"]) == (503, True, "database_unreachable")
    assert "PostgreSQL cannot be reached" in reply.json["detail"]
    assert "EXITPLANE_DATABASE_URL" in reply.json["hint"]
    assert int(reply.headers["retry-after"]) > 0
    assert "exitplane-revision" not in reply.headers


async def test_errors_without_database_are_unchanged(make_api):
    api = make_api(Database(NOWHERE))
    assert (await api.anonymous("POST", "/api/v1/fleets", {"name": "A"})).status == 401
    assert (await api.anonymous("POST", "/api/v1/auth/login", {"name": 1})).status == 422
    assert (await api.anonymous("POST", "/api/v1/auth/login", body=b"{")).status == 400
    assert (await api.anonymous("GET", "/api/v1/auth/oidc/login")).status == 404


async def test_api_recovers_with_database(linked_database, make_api, stored):
    database, link = linked_database
    api = make_api(database)
    assert (await api("POST", "/api/v1/fleets", FLEET)).status == 201
    await link.cut()
    for _ in range(3):
        assert (await api("POST", "/api/v1/fleets", FLEET | {"name": "other"})).status == 503
        assert (await api("GET", "/api/v1/fleets")).status == 503
    await link.restore()
    assert (await stored())["revision"] == 1
    assert (await api("POST", "/api/v1/fleets", FLEET | {"name": "other"})).status == 201
    assert len((await api("GET", "/api/v1/fleets")).json["items"]) == 2


async def test_interrupted_write_stores_nothing(linked_database, make_api, stored, monkeypatch):
    database, link = linked_database
    api = make_api(database)
    inserted = asyncio.Event()

    async def wait_forever(unit):
        inserted.set()
        await unit.session.connection()
        await link.cut()

    # the connection breaks between the insertion of rows and the new revision
    monkeypatch.setattr("model.unit_of_work.UnitOfWork.seal", wait_forever)
    reply = await api("POST", "/api/v1/fleets", FLEET)
    assert inserted.is_set()
    assert reply.status == 503
    after = await stored()
    assert (after["revision"], after["fleet"], after["listener"]) == (0, 0, 0)


async def test_known_proxies_send_heartbeats_during_outage(linked_database, make_api, make_token, demo, clock, query):
    database, link = linked_database
    api = make_api(database)
    known, unknown = [await enrolled(api, make_token, name) for name in ("one", "two")]
    assert (await known.beat()).status == 202
    await api.context.heartbeat_sink.flush()
    await link.cut()
    for _ in range(5):
        clock.advance(seconds=10)
        reply = await known.beat()
        assert (reply.status, reply.json["state"]) == (202, "registering")
    reply = await unknown.beat()
    assert (reply.status, reply.json["code"]) == (503, "database_unreachable")
    assert api.context.heartbeat_sink.pending_count == 1
    await link.restore()
    await api.context.heartbeat_sink.flush()
    assert [row["heard_at"] for row in await query("SELECT heard_at FROM heartbeat")] == [clock()]
    assert (await unknown.beat()).status == 202


async def enrolled(api, make_token, name):
    proxy = api.proxy("exit")
    assert (await proxy.enrol(await make_token(proxy.role), name)).status == 201
    return proxy


async def test_removal_is_seen_after_outage_of_replica(linked_database, make_api, make_token, demo, until):
    database, link = linked_database
    api = make_api(database)
    proxy = await enrolled(api, make_token, "one")
    following = asyncio.create_task(api.context.certificate_cache.run())
    await until(lambda: api.context.certificate_cache._revision)
    assert (await proxy.beat()).status == 202
    await link.cut()
    assert (await demo("DELETE", f"/api/v1/exits/{proxy.id}")).status == 204
    assert (await proxy.beat()).status == 202
    await link.restore()
    await until(lambda: not api.context.certificate_cache._credentials)
    assert (await proxy.beat()).status == 410
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
