"""Outages of PostgreSQL, and replicas that start and stop."""

from __future__ import annotations

import asyncio
import socket

import grpc
import pytest

from model.current_authority import CurrentAuthority
from xds.server.admission import Limits
from xds.server.server import XdsPortInUse, run_server
from xds.translate import names

pytestmark = pytest.mark.postgres


async def test_streams_are_refused_until_world_is_loaded(fleet_db, linked_database, serve, connect, has_all, until):
    """A response from an empty World would delete the configuration of an Envoy."""
    database, link = linked_database
    await link.cut()
    async with serve(database, ready=False) as server:
        assert not server.ready
        async with connect(server, fleet_db.identity) as client:
            assert await client.end() is grpc.StatusCode.UNAVAILABLE
        await link.restore()
        await until(lambda: server.ready)
        async with connect(server, fleet_db.identity) as client:
            await client.start()
            await client.until(has_all(2))


async def test_outage_keeps_streams_and_delivers_change_afterwards(
    fleet_db, linked_database, serve, connect, has_all, until
):
    database, link = linked_database
    second = await fleet_db.add_gateway("gw-2")
    async with serve(database) as server, connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await link.cut()
        await fleet_db.add_pool("jp")
        async with connect(server, second) as newcomer:  # served from memory, at the last revision
            await newcomer.start()
            await newcomer.until(has_all(2))
            await client.ask(names.CLUSTER, fleet_db.cluster("us"))  # subscribing again needs a response
            answer = await client.read()
            assert [resource.name for resource in answer.resources] == [fleet_db.cluster("us")]
            await client.accept(answer)
            assert server.publisher.world.revision == 2
            await link.restore()
            for each in (client, newcomer):
                await each.until(has_all(3))
        assert server.ready


async def test_acks_during_outage_are_stored_afterwards(
    fleet_db, linked_database, serve, connect, has_all, synced, until
):
    database, link = linked_database
    async with serve(database) as server, connect(server, fleet_db.identity) as client:
        await link.cut()
        await client.start()
        await client.until(has_all(2))
        await link.restore()

        async def all_types():
            return len(await synced(fleet_db.gateway.id)) == 5

        await until(all_types)


async def test_stopping_replica_ends_streams_with_ok(fleet_db, serve, connect, has_all):
    """After OK Envoy reconnects at once; after an error it would wait."""
    async with serve() as server:
        context = connect(server, fleet_db.identity)
        client = await context.__aenter__()
        await client.start()
        await client.until(has_all(2))
        ending = asyncio.ensure_future(client.end())
    assert await ending is grpc.StatusCode.OK
    await context.__aexit__(None, None, None)


async def test_stopping_replica_stores_acks(fleet_db, serve, connect, has_all, synced):
    async with serve() as server, connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await client.call.done_writing()
        assert await client.end() is grpc.StatusCode.OK
    assert len(await synced(fleet_db.gateway.id)) == 5


async def test_replica_stops_during_outage(fleet_db, linked_database, serve, connect, has_all):
    database, link = linked_database
    async with asyncio.timeout(60), serve(database) as server, connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await link.cut()


async def test_port_in_use_raises_error_with_hint(fleet_db, database, authority):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(XdsPortInUse, match=f"xDS cannot listen on {address}.*EXITPLANE_XDS_LISTEN"):
            await run_server(
                database, CurrentAuthority(authority), [address], limits=Limits(removal_grace_s=0)
            ).__aenter__()


async def test_second_replica_cannot_share_port(fleet_db, server, database, authority):
    address = f"127.0.0.1:{server.ports[0]}"
    with pytest.raises(XdsPortInUse):
        await run_server(
            database, CurrentAuthority(authority), [address], limits=Limits(removal_grace_s=0)
        ).__aenter__()


async def test_replica_listens_on_several_addresses(fleet_db, database, authority, dial, until):
    addresses = ["127.0.0.1:0", "127.0.0.1:0"]
    async with run_server(database, CurrentAuthority(authority), addresses, limits=Limits(removal_grace_s=0)) as server:
        assert len(set(server.ports)) == 2
        assert all(server.ports)


async def test_gap_in_change_log_causes_full_load_without_resend(
    fleet_db, linked_database, serve, connect, has_all, until
):
    """After a long outage the change log no longer has the changes in between."""
    database, link = linked_database
    async with serve(database) as server, connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await link.cut()
        await fleet_db.add_pool("jp")
        connection = await fleet_db.database.connect()
        await connection.execute("DELETE FROM change")
        await connection.close()
        before = client.count(names.LISTENER)
        await link.restore()
        await client.until(has_all(3))
        assert client.count(names.LISTENER) == before
