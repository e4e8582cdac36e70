"""Strangers who hold connections of the API, over real sockets: heartbeats get in, and silence counts only while they do."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress

import aiohttp
import pytest
import uvicorn

from api.http.connections import HEAD_MAX_BYTES, close_overdue, server_config
from api.runtime.accept_probe import AcceptProbe
from api.runtime.heartbeat_sink import HeartbeatSink
from model.connection_table import ConnectionLimits, ConnectionTable
from model.repositories import heartbeats

STRANGER = "127.0.0.2"


class Server:
    """The API with bounds, and strangers beside it."""

    def __init__(self, app, limits):
        self.table = ConnectionTable("api", limits)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self._uvicorn = uvicorn.Server(server_config(app, self.table))
        self._strangers = []

    async def __aenter__(self):
        self._tasks = [
            asyncio.create_task(self._uvicorn.serve(sockets=[self.listening])),
            asyncio.create_task(close_overdue(self.table)),
        ]
        return self

    async def __aexit__(self, *_):
        for _, writer in self._strangers:
            writer.transport.abort()
        self._uvicorn.should_exit = True
        self._tasks[1].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stranger(self, sent=b"P"):
        """Open a connection, and send the beginning of a request."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(STRANGER, 0))
        self._strangers.append((reader, writer))
        writer.write(sent)
        return reader, writer


@pytest.fixture
async def serve(until):
    """`await serve(app, total=…)`: a running Server."""
    opened = []

    async def start(app, **limits):
        server = Server(app, ConnectionLimits(**limits))
        opened.append(await server.__aenter__())
        await until(lambda: server._uvicorn.started)
        return server

    yield start
    for server in opened:
        await server.__aexit__()


async def post_heartbeat(server, proxy):
    body = json.dumps({"tunnel": "up", "envoy": "up", "version": "1"}).encode()
    headers = proxy.sign(body, proxy.path) | {"Content-Type": "application/json"}
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{server.port}{proxy.path}"
        async with session.post(url, data=body, headers=headers) as reply:
            return reply.status


@pytest.mark.parametrize("limits", [{"total": 40}, {"total": 400, "waiting_per_address": 40}])
async def test_heartbeats_get_in_while_strangers_hold_connections(limits, serve, exit_proxy, until):
    server = await serve(exit_proxy.api.app, **limits)
    for _ in range(3):
        for _ in range(100):
            await server.stranger()
        exit_proxy.api.context.clock.advance(milliseconds=1)
        assert await post_heartbeat(server, exit_proxy) == 202
    await until(lambda: server.table.waiting <= 40)
    assert sum(server.table.closed.values()) >= 260
    assert sum(reader.at_eof() or reader.exception() is not None for reader, _ in server._strangers) >= 200


async def test_authenticated_stream_stays_while_strangers_come(serve, demo, admin, until):
    server = await serve(demo.app, total=20)
    headers = {"Authorization": f"Bearer {admin.key}", "Accept": "text/event-stream"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"http://127.0.0.1:{server.port}/api/v1/events") as stream,
    ):
        assert b"from here on" in await stream.content.readline()
        for _ in range(60):
            await server.stranger()
        await until(lambda: sum(server.table.closed.values()) >= 40)
        assert (await demo("POST", "/api/v1/plans", {"fleet": "demo", "name": "gold"})).status == 201
        while b"plan.created" not in await stream.content.readline():
            pass


async def test_health_counts_connections_of_each_listener(make_api, database):
    table = ConnectionTable("api", ConnectionLimits(total=1))
    table.add(1, "192.0.2.1")
    table.add(2, "192.0.2.1")
    health = (await make_api(database, connection_tables={"api": table})("GET", "/health")).json
    assert health["connections"] == {"api": {"open": 1, "waiting": 1, "closed": {"too_many": 1}}}


SLOW = {
    "nothing": b"",
    "head": b"POST /api/v1/auth/login HTTP/1.1\r\nHost: a\r\n",
    "body": b"POST /api/v1/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    "unread body": b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n{",
}


@pytest.mark.parametrize("kind", SLOW)
async def test_connection_without_a_complete_request_is_closed(kind, serve, api):
    server = await serve(api.app, wait_s=0.1)
    reader, _ = await server.stranger(SLOW[kind])
    async with asyncio.timeout(60):
        with suppress(ConnectionResetError):
            await reader.read()
    assert server.table.closed == {"timeout": 1}


async def test_slow_body_of_an_operator_is_refused(serve, api, admin, monkeypatch):
    monkeypatch.setattr("api.http.request_body.BODY_TIMEOUT_S", 0.05)
    server = await serve(api.app)
    head = f"POST /api/v1/fleets HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {admin.key}\r\n"
    reader, _ = await server.stranger(f"{head}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{{".encode())
    async with asyncio.timeout(60):
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nA: ", b"GET /", b"GET / HTTP/1.1\r\n"])
async def test_endless_head_is_refused(head, serve, api):
    server = await serve(api.app)
    reader, writer = await server.stranger(head)
    line = b"x" * 1024 if not head.endswith(b"\n") else b"A: " + b"x" * 1019 + b"\r\n"
    with suppress(ConnectionError):
        for _ in range(HEAD_MAX_BYTES * 4 // len(line)):
            writer.write(line)
            await writer.drain()
            await asyncio.sleep(0)
    async with asyncio.timeout(60):
        with suppress(ConnectionResetError):
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    assert server.table.open == 0


async def test_large_head_within_the_limit_is_served(serve, api):
    server = await serve(api.app)
    async with aiohttp.ClientSession() as session:
        headers = {f"X-{number}": "x" * 7_000 for number in range(8)}
        for _ in range(3):
            async with session.get(f"http://127.0.0.1:{server.port}/health", headers=headers) as reply:
                assert reply.status == 200


# -- silence counts only while heartbeats get in -----------------------------------------------------------------------


@pytest.fixture
async def deaf():
    """A listening socket whose queue is full, so that no connection gets in."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        filling = [socket.socket() for _ in range(4)]
        for each in filling:
            each.setblocking(False)
            each.connect_ex(listening.getsockname())
        yield listening
        for each in filling:
            each.close()


async def watermark(database):
    async with database.session() as session:
        return await heartbeats.ingest_watermark(session)


async def test_replica_that_accepts_nothing_records_no_watermark(database, clock, deaf):
    probe = AcceptProbe([deaf], clock, timeout_s=0.05)
    sink = HeartbeatSink(database, replica="a", clock=clock, reached_at=lambda: probe.reached_at)
    assert not await probe.check()
    await sink.flush()
    assert await watermark(database) is None


async def test_watermark_stays_at_the_last_success_of_the_probe(database, clock, serve, api, deaf):
    server = await serve(api.app)
    probe = AcceptProbe([server.listening], clock, timeout_s=30)
    sink = HeartbeatSink(database, replica="a", clock=clock, reached_at=lambda: probe.reached_at)
    assert await probe.check()
    reached = clock()
    probe._addresses, probe._timeout_s = [deaf.getsockname()], 0.05
    for _ in range(3):
        clock.advance(seconds=1)
        assert not await probe.check()
        await sink.flush()
    assert await watermark(database) == reached


async def test_probe_fails_when_connections_are_closed_unanswered(clock):
    async def close(_, writer):
        writer.transport.abort()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as closing:
        probe = AcceptProbe(closing.sockets, clock, timeout_s=30)
        assert not await probe.check()


async def test_probe_dials_loopback_for_all_addresses(clock):
    with socket.create_server(("0.0.0.0", 0)) as each:
        probe = AcceptProbe([each], clock)
        assert probe._addresses == [("127.0.0.1", each.getsockname()[1])]
