"""Faulty, slow and hostile clients at the real server.

Each gets the right status or is ignored. A good gateway on the same server is served meanwhile, and no state of the bad client stays.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import grpc
import pytest

from model.identity import XDS_SERVER_NAME
from xds.protocol.messages import MAX_NAMES
from xds.protocol.stream import MAX_NODE_BYTES
from xds.server.admission import MAX_REQUEST_BYTES
from xds.translate import names
from xds.wire.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

pytestmark = pytest.mark.postgres


def asking(type_url: str = names.CLUSTER, **fields) -> bytes:
    return DeltaDiscoveryRequest(type_url=type_url, **fields).SerializeToString()


def unreadable() -> Iterator[str]:
    """Yield missing names whose removals do not fit into the buffers between the server and a client that does not read."""
    return (f"name-{number:06}-{'x' * 40}" for number in range(80_000))


def too_many() -> Iterator[str]:
    """Yield one name more than a stream may subscribe to."""
    return map(str, range(MAX_NAMES + 1))


@pytest.fixture
async def serve_with_good_gateway(fleet_db, serve, drive, services, until, has_all, no_logged_errors):
    """`async with serve_with_good_gateway(**limits) as (server, identity, change_arrives)`: a server with a good gateway.

    `identity` is for the bad client. At the end the good gateway must be served, and the server's state be as before.
    """

    @asynccontextmanager
    async def start(**limits):
        bad = await fleet_db.add_gateway("bad")
        async with serve(**limits) as server, drive(server, fleet_db.identity) as good:
            await until(lambda: has_all(2)(good.client))
            await until(lambda: not server.publisher.rollouts_in_progress())
            (service,) = services

            def remembered():
                publisher, recorder = server.publisher, service._recorder
                tables = (publisher._by_proxy, publisher._by_scope, publisher._rollouts, recorder._states)
                return publisher.streams, len(service._streams), [{*table} for table in tables]

            async def change_arrives(address):
                await fleet_db.change(fleet_db.exits["us"], endpoint=address)
                await until(lambda: address.encode() in good.client.bodies[names.ENDPOINT, fleet_db.cluster("us")])

            before = remembered()
            assert before[0] == before[1] == 1
            yield server, bad, change_arrives
            await change_arrives("198.51.100.250")
            await until(lambda: remembered() == before)
            assert good.code is None
            assert not good.client.call.done()

    return start


@pytest.fixture
def now_s(monkeypatch) -> list[float]:
    """`now_s[0] += 61` moves the server's clock, which stands still otherwise, so that no client is slow by accident."""
    now = [1000.0]
    frozen = SimpleNamespace(monotonic=lambda: now[0])
    for module in ("discovery_service", "stream_handler"):
        monkeypatch.setattr(f"xds.server.{module}.time", frozen)
    monkeypatch.setattr("xds.server.discovery_service._TIMEOUT_CHECK_S", 0.02)
    return now


@pytest.fixture
def outstanding(services, until):
    """`await outstanding(writes=0, answers=1)` waits until so many streams are writing and wait for an answer.

    Tests call it before they move the clock, so that only the bad client is late.
    """

    async def wait(*, writes: int = 0, answers: int) -> None:
        (service,) = services

        def count() -> tuple[int, int]:
            streams = service._streams
            return (
                sum(each.writing_since is not None for each in streams),
                sum(each.protocol.unanswered_since is not None for each in streams),
            )

        await until(lambda: count() == (writes, answers))

    return wait


ENDED = {
    "a node above its bound": (lambda: asking(node=bytes(MAX_NODE_BYTES + 1)), "RESOURCE_EXHAUSTED", "node"),
    "a message above its bound": (lambda: asking(node=bytes(MAX_REQUEST_BYTES)), "RESOURCE_EXHAUSTED", "larger"),
    "a name above their bound": (
        lambda: asking(names.ENDPOINT, resource_names_subscribe=too_many()),
        "RESOURCE_EXHAUSTED",
        f"more than {MAX_NAMES} names",
    ),
    "a name held from before above their bound": (
        lambda: asking(names.ENDPOINT, initial_resource_versions=dict.fromkeys(too_many(), "")),
        "RESOURCE_EXHAUSTED",
        f"more than {MAX_NAMES} names",
    ),
    "a name that is not UTF-8": (lambda: asking() + b"\x1a\x02\xff\xfe", "INVALID_ARGUMENT", "not a discovery request"),
    "no type": (lambda: asking(""), "INVALID_ARGUMENT", "type_url is missing"),
    "random bytes": (lambda: bytes(range(255, 0, -1)) * 40, "INVALID_ARGUMENT", "not a discovery request"),
}
"""Each request is made by its test: together they take 2 s and 40 MB, which every process of the run would spend."""


@pytest.mark.parametrize("wrong", ENDED)
async def test_bad_request_ends_stream_with_status(fleet_db, serve_with_good_gateway, connect, wrong):
    make, status, words = ENDED[wrong]
    async with serve_with_good_gateway() as (server, identity, change_arrives), connect(server, identity) as client:
        await client.call.write(make())
        await change_arrives("198.51.100.2")
        assert await client.end() is grpc.StatusCode[status]
        assert words in await client.call.details()


async def test_too_many_sotw_names_end_stream(fleet_db, serve_with_good_gateway, dial, speak_sotw):
    async with serve_with_good_gateway() as (server, identity, change_arrives), dial(server, identity) as channel:
        client = speak_sotw(channel)
        request = DiscoveryRequest(type_url=names.ENDPOINT, resource_names=too_many())
        await client.call.write(request.SerializeToString())
        await change_arrives("198.51.100.2")
        async with asyncio.timeout(60):
            assert await client.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


IGNORED = {
    "no node": asking("type.example/of.nobody"),
    "a type of nobody": asking("type.example/of.nobody", node=b"\x0a\x01a", resource_names_subscribe=["*", "a"]),
    "a foreign nonce": asking(names.LISTENER, response_nonce="foreign", resource_names_unsubscribe=["nothing"]),
    "a rejection of nothing": asking("type.example/of.nobody", response_nonce="1", error_detail={"message": b"no"}),
}


@pytest.mark.parametrize("odd", IGNORED)
async def test_meaningless_request_is_ignored(fleet_db, serve_with_good_gateway, connect, has_all, odd):
    async with serve_with_good_gateway() as (server, identity, _), connect(server, identity) as client:
        await client.call.write(IGNORED[odd])
        await client.start()
        await client.until(has_all(2))
        await client.call.write(IGNORED[odd])
        await fleet_db.add_pool("jp")
        await client.until(has_all(3))


async def test_foreign_nonces_are_ignored(fleet_db, serve_with_good_gateway, connect, until):
    async with serve_with_good_gateway() as (server, identity, change_arrives), connect(server, identity) as client:
        await client.ask(names.ENDPOINT, fleet_db.cluster("us"), fleet_db.cluster("de"))
        held = await client.read()
        for number in range(50):
            await client.ask(names.ENDPOINT, response_nonce=f"foreign-{number}")
            await client.ask(names.ENDPOINT, response_nonce=f"foreign-{number}", error_detail={"message": b"no"})
        await change_arrives("198.51.100.2")
        await client.ask(names.LISTENER, "nothing")  # answered after everything before it
        assert (await client.read()).type_url == names.LISTENER  # endpoints are in flight, so they wait
        await client.accept(held)
        changed = await client.read()
        assert [resource.name for resource in changed.resources] == [fleet_db.cluster("us")]


async def test_client_that_never_reads_is_disconnected(
    fleet_db, serve_with_good_gateway, connect, until, now_s, outstanding
):
    async with (
        serve_with_good_gateway(write_timeout_s=60, answer_timeout_s=600) as (server, identity, change_arrives),
        connect(server, identity) as client,
    ):
        await client.ask(names.ENDPOINT, *unreadable())
        await outstanding(writes=1, answers=1)
        await change_arrives("198.51.100.2")
        await outstanding(writes=1, answers=1)
        now_s[0] += 61
        await until(lambda: server.publisher.streams == 1)  # while the client still does not read
        await change_arrives("198.51.100.3")
        assert await client.end() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "does not read" in await client.call.details()


async def test_disconnect_during_response_leaves_no_state(fleet_db, serve_with_good_gateway, connect, services, until):
    async with serve_with_good_gateway() as (server, identity, change_arrives), connect(server, identity) as client:
        await client.ask(names.ENDPOINT, *unreadable())
        (service,) = services
        await until(lambda: any(each.writing_since for each in service._streams))
        await change_arrives("198.51.100.2")
        client.call.cancel()


async def test_client_that_never_answers_is_disconnected(
    fleet_db, serve_with_good_gateway, connect, now_s, outstanding
):
    async with (
        serve_with_good_gateway(answer_timeout_s=60) as (server, identity, change_arrives),
        connect(server, identity) as client,
    ):
        await client.start()
        await client.read()
        await change_arrives("198.51.100.2")
        await outstanding(answers=1)
        now_s[0] += 61
        assert await client.end() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "does not answer" in await client.call.details()
        assert {response.type_url for response in client.responses} == {names.CLUSTER}
        assert len(client.responses) == 1


async def test_client_that_answers_in_time_stays_connected(
    fleet_db, serve_with_good_gateway, connect, has_all, now_s, outstanding
):
    """Only an unanswered response counts, however long the client is quiet after that."""
    async with (
        serve_with_good_gateway(answer_timeout_s=60, write_timeout_s=60) as (server, identity, _),
        connect(server, identity) as client,
        connect(server, identity) as silent,
    ):
        await client.start()
        await client.until(has_all(2))
        await outstanding(answers=0)
        await silent.start()
        await silent.read()
        await outstanding(answers=1)
        now_s[0] += 61
        assert await silent.end() is grpc.StatusCode.DEADLINE_EXCEEDED  # so the timeouts were enforced
        assert not client.call.done()
        await fleet_db.add_pool("jp")
        await client.until(has_all(3))


async def test_client_that_always_nacks_gets_each_version_once(fleet_db, serve_with_good_gateway, drive, until):
    async with serve_with_good_gateway() as (server, identity, change_arrives), drive(server, identity) as bad:
        bad.refuses[names.ENDPOINT] = "no"
        await until(lambda: bad.refused)
        for number in range(2, 12):
            await change_arrives(f"198.51.100.{number}")
        last = bad.client.count(names.ENDPOINT)
        await bad.client.ask(names.LISTENER, "a listener that does not exist")
        await until(lambda: bad.was_sent(names.LISTENER, "a listener that does not exist"))
        versions = bad.versions_sent(names.ENDPOINT, fleet_db.cluster("us"))
        assert len(versions) == len(set(versions)) >= 2
        assert bad.client.count(names.ENDPOINT) <= 2 + 10
        assert bad.client.count(names.ENDPOINT) - last <= 1
        assert bad.client.count(names.CLUSTER) == 1
        assert len(bad.refused) >= 2


async def test_client_that_rejects_all_clusters_gets_them_once(fleet_db, serve_with_good_gateway, drive, until):
    async with serve_with_good_gateway() as (server, identity, change_arrives), drive(server, identity) as bad:
        bad.refuses |= dict.fromkeys((names.CLUSTER, names.LISTENER), "no")
        await until(lambda: len(bad.refused) >= 2)
        for number in range(2, 7):
            await change_arrives(f"198.51.100.{number}")
        assert bad.client.count(names.CLUSTER) == bad.client.count(names.LISTENER) == 1


METHODS = [
    "discovery.v3.AggregatedDiscoveryService/FetchAggregatedResources",
    "discovery.v3.AggregatedDiscoveryService/NoSuchMethod",
    "status.v3.ClientStatusDiscoveryService/StreamClientStatus",
    "route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts",
]


@pytest.mark.parametrize("method", METHODS)
async def test_unserved_method_is_unimplemented(fleet_db, serve_with_good_gateway, dial, method):
    async with serve_with_good_gateway() as (server, identity, change_arrives), dial(server, identity) as channel:
        call = channel.stream_stream(f"/envoy.service.{method}")()
        await change_arrives("198.51.100.2")
        async with asyncio.timeout(60):
            assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


# -- below gRPC --------------------------------------------------------------------------------------------------------


async def test_unfinished_tls_handshake_disturbs_nobody(fleet_db, serve_with_good_gateway):
    async with serve_with_good_gateway() as (server, _, change_arrives):
        with (
            socket.create_connection(("127.0.0.1", server.ports[0])),
            socket.create_connection(("127.0.0.1", server.ports[0])) as half,
        ):
            half.sendall(b"\x16\x03\x01\x02\x00")  # the start of a ClientHello
            await change_arrives("198.51.100.2")


async def test_plaintext_bytes_end_connection(fleet_db, serve_with_good_gateway):
    async with serve_with_good_gateway() as (server, _, change_arrives):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.ports[0])
        writer.write(b"GET / HTTP/1.1\r\nHost: xds\r\n\r\n")
        await change_arrives("198.51.100.2")
        async with asyncio.timeout(60):
            assert b"HTTP" not in await reader.read()
        writer.close()


async def test_malformed_http2_ends_connection(fleet_db, serve_with_good_gateway, authority, certified):
    async with serve_with_good_gateway() as (server, identity, change_arrives):
        context = ssl.create_default_context(cadata=authority.certificate_pem)
        context.set_alpn_protocols(["h2"])
        certified(context, identity, authority)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.ports[0], ssl=context, server_hostname=XDS_SERVER_NAME
        )
        writer.write(b"\xff" * 4096)
        await change_arrives("198.51.100.2")
        async with asyncio.timeout(60):
            await reader.read()
        writer.transport.abort()
