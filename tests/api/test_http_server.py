"""The API behind a real HTTP server and sockets."""

from __future__ import annotations

import asyncio
import io
import json

import aiohttp
import pytest
import uvicorn

from api.http.connections import server_config
from model.connection_table import ConnectionLimits, ConnectionTable

FLEET = {"name": "demo", "listener": {"address": "127.0.0.1", "port": 8080}}


@pytest.fixture
async def address(api, until):
    server = uvicorn.Server(uvicorn.Config(api.app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


@pytest.fixture
async def session(admin):
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {admin.key}"}) as session:
        yield session


async def test_write_and_read(address, session):
    async with session.post(f"{address}/api/v1/fleets", json=FLEET) as reply:
        assert (reply.status, reply.headers["Exitplane-Revision"]) == (201, "1")
        created = await reply.json()
    async with session.get(address + reply.headers["Location"]) as reply:
        assert await reply.json() == created
    async with session.delete(address + f"/api/v1/fleets/{created['id']}") as reply:
        assert (reply.status, reply.headers["Exitplane-Revision"], await reply.read()) == (204, "2", b"")


@pytest.mark.parametrize("chunked", [False, True])
async def test_server_survives_body_above_limit(chunked, address, session, stored):
    async def endlessly():
        for _ in range(256):
            yield b" " * 65536

    body = endlessly() if chunked else io.BytesIO(b" " * (1024 * 1024 + 1))
    headers = {"Content-Type": "application/json"}
    async with session.post(f"{address}/api/v1/fleets", data=body, headers=headers) as reply:
        assert (reply.status, (await reply.json(content_type=None))["code"]) == (413, "too_large")
        assert reply.headers["Connection"] == "close"
    async with session.post(f"{address}/api/v1/fleets", json=FLEET) as reply:
        assert reply.status == 201
    assert (await stored())["fleet"] == 1


async def test_aborted_body_stores_nothing(address, session, admin, stored):
    host, _, port = address.removeprefix("http://").partition(":")
    body = json.dumps(FLEET).encode()
    for sent in (body[:10], body):
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /api/v1/fleets HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {admin.key}\r\n"
        content = f"Content-Type: application/json\r\nContent-Length: {len(body) + 1}\r\n\r\n"
        writer.write(f"{head}{content}".encode() + sent)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    async with session.get(f"{address}/api/v1/fleets") as reply:
        assert await reply.json() == {"items": [], "next": None}
    assert (await stored())["revision"] == 0


async def test_concurrent_heartbeats_of_many_proxies(address, session, exit_proxy, clock, query):
    path = exit_proxy.path

    async def beat(number: int) -> int:
        clock.advance(milliseconds=1)
        body = json.dumps({"tunnel": "up", "envoy": "up", "version": str(number)}).encode()
        headers = exit_proxy.sign(body, path) | {"Content-Type": "application/json"}
        async with session.post(address + path, data=body, headers=headers) as reply:
            return reply.status

    assert set(await asyncio.gather(*(beat(number) for number in range(100)))) == {202}
    await exit_proxy.api.context.heartbeat_sink.flush()
    assert len(await query("SELECT * FROM heartbeat")) == 1


async def forwarded_logins(app, until, trusted_proxies):
    """Fail 21 logins of one client, and then one of another, behind a proxy on loopback. Return the last two statuses."""
    config = server_config(app, ConnectionTable("api", ConnectionLimits()), trusted_proxies=trusted_proxies, port=0)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/api/v1/auth/login"
    statuses = []
    async with aiohttp.ClientSession() as session:
        for number in range(22):
            body = {"name": f"somebody-{number}", "password": "wrong horse battery"}
            headers = {"X-Forwarded-For": "192.0.2.7" if number < 21 else "192.0.2.8"}
            async with session.post(url, json=body, headers=headers) as reply:
                statuses.append(reply.status)
    server.should_exit = True
    await task
    assert statuses[:20] == [401] * 20
    return statuses[20:]


async def test_forwarded_address_is_not_believed(api, until):
    """Otherwise a client on the host guesses passwords without end, under an address of its own for each guess."""
    assert await forwarded_logins(api.app, until, "") == [429, 429]


async def test_failed_logins_count_for_address_forwarded_by_trusted_proxy(api, until):
    assert await forwarded_logins(api.app, until, "198.51.100.1,127.0.0.0/8") == [429, 401]
