"""Strangers who hold connections of the xDS server: proxies get in, and their streams stay."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import grpc
import pytest

from model.connection_table import ConnectionLimits
from xds.server.connection_guard import ClientEnd, parse_peer
from xds.translate.names import CLUSTER

pytestmark = pytest.mark.postgres


@pytest.fixture
def stranger():
    """`await stranger(server)`: a connection that sends one byte of a TLS handshake."""
    writers = []

    async def open_one(server, sent=b"\x16"):
        with suppress(OSError):  # gRPC refuses it
            reader, writer = await asyncio.open_connection("127.0.0.1", server.ports[0], local_addr=("127.0.0.2", 0))
            writers.append(writer)
            writer.write(sent)
            return reader
        return None

    yield open_one
    for writer in writers:
        writer.transport.abort()


@pytest.mark.parametrize("limits", [{"total": 100}, {"total": 4_000, "waiting_per_address": 60}])
async def test_streams_get_in_while_strangers_hold_connections(limits, fleet_db, serve, connect, stranger, until):
    another = await fleet_db.add_gateway("gw-2")
    async with serve(connections=ConnectionLimits(**limits)) as server, connect(server, fleet_db.identity) as first:
        await first.ask(CLUSTER, "*")
        await first.accept(await first.read())
        for _ in range(300):
            await stranger(server)
        await until(lambda: 0 < server.connections.waiting <= 75)

        async def is_served():
            with suppress(grpc.aio.AioRpcError):  # gRPC has not yet closed all that the guard shut: a proxy dials again
                async with connect(server, another) as second:
                    await second.ask(CLUSTER, "*")
                    await second.until(lambda client: fleet_db.cluster("us") in client.held(CLUSTER))
                    return True
            return False

        await until(is_served)
        await fleet_db.add_pool("fr")
        await first.until(lambda client: fleet_db.cluster("fr") in client.held(CLUSTER))


async def test_connection_without_a_handshake_is_closed(fleet_db, serve, stranger):
    async with serve(connections=ConnectionLimits(wait_s=0.2)) as server:
        reader = await stranger(server)
        async with asyncio.timeout(60):
            with suppress(ConnectionResetError):
                assert await reader.read() == b""


async def test_stream_outlives_the_time_to_wait(fleet_db, serve, connect, until, stranger):
    async with (
        serve(connections=ConnectionLimits(wait_s=0.2)) as server,
        connect(server, fleet_db.identity) as client,
    ):
        await client.ask(CLUSTER, "*")
        await client.accept(await client.read())
        reader = await stranger(server)
        with suppress(ConnectionResetError):
            await reader.read()
        await until(lambda: (server.connections.open, server.connections.waiting) == (1, 0))
        await fleet_db.add_pool("fr")
        await client.until(lambda client: fleet_db.cluster("fr") in client.held(CLUSTER))


async def test_guard_leaves_other_sockets_of_the_process_alone(fleet_db, serve):
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_connection(other.getsockname()) as client:
        accepted, _ = other.accept()
        async with serve(connections=ConnectionLimits(total=1, wait_s=0.001)) as server:
            await asyncio.sleep(0.2)
            assert server.connections.open == 0
        with accepted:
            client.sendall(b"1")
            assert accepted.recv(1) == b"1"


@pytest.mark.parametrize(
    ("named", "peer"),
    [
        ("ipv4:192.0.2.1:50000", ClientEnd("192.0.2.1", 50000)),
        ("ipv6:%5B2001:db8::1%5D:50000", ClientEnd("2001:db8::1", 50000)),
        ("ipv6:[::ffff:192.0.2.1]:1", ClientEnd("192.0.2.1", 1)),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", ClientEnd("fe80::1", 1)),
    ],
)
def test_peer_of_grpc_is_an_address_and_a_port(named, peer):
    assert parse_peer(named) == peer
