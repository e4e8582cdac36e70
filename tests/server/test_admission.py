"""Admission of clients: the identity is that of the certificate, never one that the client states."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from uuid import uuid4

import grpc
import pytest
from sqlalchemy import delete, update
from sqlmodel import col

from model.authority import create_authority, issue_server
from model.entities import Role
from model.identity import XDS_SERVER_NAME, Identity
from model.repositories import declared
from model.request_signature import thumbprint_of
from model.tables import ProxyRow, RemovedProxyRow, RevisionRow
from tests.server.conftest import FleetFixture, certify
from xds.server.world_watcher import Debounce
from xds.translate import names

pytestmark = pytest.mark.postgres


async def shake_hands(server, context: ssl.SSLContext) -> bytes:
    """Return the first byte of the server; empty if it closes. In TLS 1.3 a client learns of its refusal only so."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", server.ports[0], ssl=context, server_hostname=XDS_SERVER_NAME
    )
    try:
        async with asyncio.timeout(60):
            return await reader.read(1)
    except (ConnectionError, ssl.SSLError):
        return b""
    finally:
        writer.transport.abort()


@pytest.fixture
def trusting(authority) -> ssl.SSLContext:
    """An SSL context that trusts the control plane and has no client certificate."""
    context = ssl.create_default_context(cadata=authority.certificate_pem)
    context.set_alpn_protocols(["h2"])
    return context


async def test_tls_refuses_client_without_certificate(server, trusting):
    assert await shake_hands(server, trusting) == b""


async def test_tls_refuses_certificate_of_other_authority(fleet_db, server, trusting, certified):
    certified(trusting, fleet_db.identity, create_authority(datetime.now(UTC)))
    assert await shake_hands(server, trusting) == b""


async def test_tls_accepts_client_with_certificate(fleet_db, server, trusting, certified, authority):
    certified(trusting, fleet_db.identity, authority)
    assert await shake_hands(server, trusting)


@pytest.mark.parametrize("foreign", [True, False])
async def test_client_refused_by_tls_gets_no_stream(fleet_db, server, connect, foreign):
    given = (
        {"identity": fleet_db.identity, "signed_by": create_authority(datetime.now(UTC))}
        if foreign
        else {"identity": None}
    )
    async with connect(server, **given) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.start()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.publisher.streams == 0


async def test_unknown_proxy_that_nobody_removed_is_unavailable(fleet_db, server, connect):
    """It may have enrolled after the backup from which the database was restored."""
    async with connect(server, Identity(fleet_db.fleet.id, Role.GATEWAY, uuid4())) as client:
        assert await client.end() is grpc.StatusCode.UNAVAILABLE


async def test_proxy_that_enrolled_after_the_world_is_unavailable(fleet_db, server, serve, connect, until):
    async with serve(debounce=Debounce(floor_s=3600, ceiling_s=3600)) as late:
        enrolled = await fleet_db.add_gateway("gw-2")
        async with connect(late, enrolled) as client:
            assert await client.end() is grpc.StatusCode.UNAVAILABLE
            assert "not known here yet" in await client.call.details()
        await until(lambda: enrolled.proxy_id in server.publisher.world.proxies)
        async with connect(server, enrolled) as client:  # a replica that has caught up serves it
            await client.start()
            await client.until(lambda it: it.held(names.CLUSTER))


async def test_removed_proxy_is_denied_by_late_replica_that_never_knew_it(fleet_db, server, serve, connect):
    async with serve(debounce=Debounce(floor_s=3600, ceiling_s=3600)) as late:
        enrolled = await fleet_db.add_gateway("gw-2")
        await fleet_db.remove(await find_row(fleet_db.database, enrolled.proxy_id))
        async with connect(late, enrolled) as client:
            assert await client.end() is grpc.StatusCode.PERMISSION_DENIED
            assert "deregistered" in await client.call.details()


async def test_unknown_proxy_is_unavailable_while_database_is_away(linked_database, serve, connect):
    database, link = linked_database
    fleet_db = await FleetFixture.declare(database)
    async with serve(database) as server:
        await link.cut()
        async with connect(server, Identity(fleet_db.fleet.id, Role.GATEWAY, uuid4())) as client:
            assert await client.end() is grpc.StatusCode.UNAVAILABLE


async def test_stream_of_proxy_lost_by_restore_ends_unavailable(fleet_db, server, connect, has_all, until):
    """Nobody deregistered it: its agent must keep its record."""
    second = await fleet_db.add_gateway("gw-2")
    await until(lambda: second.proxy_id in server.publisher.world.proxies)
    async with connect(server, second) as client:
        await client.start()
        await client.until(has_all(2))
        async with fleet_db.database.session() as session:  # as a restore of a backup from before the enrolment
            await session.execute(delete(ProxyRow).where(col(ProxyRow.id) == second.proxy_id))
            await session.execute(delete(RemovedProxyRow))
            await session.execute(update(RevisionRow).values(value=RevisionRow.value + 1_000_000))
        assert await client.end() is grpc.StatusCode.UNAVAILABLE


async def find_row(database, proxy_id) -> ProxyRow:
    async with database.session() as session:
        return await declared.find_proxy(session, proxy_id)


async def test_deregistered_proxy_is_denied(fleet_db, server, connect, until):
    await fleet_db.remove(fleet_db.gateway)
    await until(lambda: fleet_db.gateway.id not in server.publisher.world.proxies)
    async with connect(server, fleet_db.identity) as client:
        assert await client.end() is grpc.StatusCode.PERMISSION_DENIED


async def test_stream_of_replaced_certificate_ends_and_is_refused(fleet_db, server, connect, authority, has_all):
    identity = fleet_db.identity
    former, present = certify(authority, identity), certify(authority, identity)
    async with connect(server, identity, pair=former) as gone, connect(server, identity, pair=present) as stays:
        for client in (gone, stays):
            await client.start()
            await client.until(has_all(2))
        await fleet_db.change(fleet_db.gateway, replaced_certificates=[thumbprint_of(former.certificate_pem)])
        assert await gone.end() is grpc.StatusCode.PERMISSION_DENIED
        assert "took over" in await gone.call.details()
        async with connect(server, identity, pair=former) as again:
            assert await again.end() is grpc.StatusCode.PERMISSION_DENIED
        await fleet_db.add_pool("jp")
        await stays.until(has_all(3))


@pytest.mark.parametrize("claimed", ["another role", "another fleet"])
async def test_certificate_of_other_role_or_fleet_is_denied(fleet_db, server, connect, claimed):
    """The proxy exists, but in another role or fleet than its certificate says."""
    identity = (
        Identity(fleet_db.fleet.id, Role.EXIT, fleet_db.gateway.id)
        if claimed == "another role"
        else Identity(uuid4(), Role.GATEWAY, fleet_db.gateway.id)
    )
    async with connect(server, identity) as client:
        assert await client.end() is grpc.StatusCode.PERMISSION_DENIED


async def test_deregistering_gateway_ends_only_its_stream(fleet_db, server, connect, has_all, until):
    second = await fleet_db.add_gateway("gw-2")
    await until(lambda: second.proxy_id in server.publisher.world.proxies)
    async with connect(server, fleet_db.identity) as gone, connect(server, second) as stays:
        for client in (gone, stays):
            await client.start()
            await client.until(has_all(2))
        await fleet_db.remove(fleet_db.gateway)
        assert await gone.end() is grpc.StatusCode.PERMISSION_DENIED
        await fleet_db.add_pool("jp")
        await stays.until(has_all(3))


async def test_deregistered_exit_gets_no_removal_of_its_listener(fleet_db, server, connect):
    async with connect(server, fleet_db.exit_identity("us")) as client:
        await client.start()
        await client.until(lambda it: it.held(names.ROUTE))
        exit_ = fleet_db.exits["us"]
        proxy = type(fleet_db.gateway)(id=exit_.id, fleet_id=fleet_db.fleet.id, name=exit_.name, role="exit")
        await fleet_db.remove(exit_, proxy)
        assert await client.end() is grpc.StatusCode.PERMISSION_DENIED
        assert not [name for response in client.responses for name in response.removed_resources]


async def test_identity_is_from_certificate_not_node_id(fleet_db, server, connect):
    exit_ = fleet_db.exit_identity("us")
    async with connect(server, exit_, node_id=str(fleet_db.gateway.id)) as client:
        await client.start()
        await client.until(lambda it: it.held(names.LISTENER))
        assert client.held(names.LISTENER) == {names.EXIT_LISTENER}


async def test_certificate_without_proxy_identity_is_refused(fleet_db, server, dial, authority):
    """The server's own certificate is signed by the authority too."""
    pair = issue_server(authority, datetime.now(UTC))
    credentials = grpc.ssl_channel_credentials(
        authority.certificate_pem.encode(), pair.key_pem.encode(), pair.certificate_pem.encode()
    )
    options = [("grpc.ssl_target_name_override", XDS_SERVER_NAME)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{server.ports[0]}", credentials, options=options) as channel:
        call = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
        )()
        async with asyncio.timeout(60):
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_server_certificate_has_control_plane_name(fleet_db, server, authority, certified):
    """The certificate of a proxy must not work here, or any exit could pose as the control plane."""
    context = ssl.create_default_context(cadata=authority.certificate_pem)
    certified(context, fleet_db.identity, authority)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await asyncio.open_connection(
            "127.0.0.1", server.ports[0], ssl=context, server_hostname="gateway.exitplane.internal"
        )
