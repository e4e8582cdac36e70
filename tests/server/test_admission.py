"""Who may connect, and as whom: what the certificate says, and nothing that the client states itself."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from uuid import uuid4

import grpc
import pytest

from model.authority import create_authority, issue_server
from model.entities import Role
from model.identity import XDS_SERVER_NAME, Identity
from xds.translate import names

pytestmark = pytest.mark.postgres


async def shake_hands(server, context: ssl.SSLContext) -> bytes:
    """What the server says first; nothing if it hangs up. In TLS 1.3 a client learns only so that it is refused."""
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
    """A client that trusts the control plane and has no certificate of its own."""
    context = ssl.create_default_context(cadata=authority.certificate_pem)
    context.set_alpn_protocols(["h2"])
    return context


async def test_a_client_without_a_certificate_is_refused_by_tls(server, trusting):
    assert await shake_hands(server, trusting) == b""


async def test_a_client_with_another_authoritys_certificate_is_refused_by_tls(plane, server, trusting, certified):
    certified(trusting, plane.identity, create_authority(datetime.now(UTC)))
    assert await shake_hands(server, trusting) == b""


async def test_a_client_with_a_certificate_is_let_in_by_tls(plane, server, trusting, certified, authority):
    certified(trusting, plane.identity, authority)
    assert await shake_hands(server, trusting)


@pytest.mark.parametrize("foreign", [True, False])
async def test_a_grpc_client_that_tls_refuses_gets_no_stream(plane, server, connect, foreign):
    given = (
        {"identity": plane.identity, "signed_by": create_authority(datetime.now(UTC))}
        if foreign
        else {"identity": None}
    )
    async with connect(server, **given) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.start()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.publisher.streams == 0


async def test_a_proxy_that_nobody_knows_is_denied(plane, server, connect):
    async with connect(server, Identity(plane.fleet.id, Role.GATEWAY, uuid4())) as client:
        assert await client.end() is grpc.StatusCode.PERMISSION_DENIED
        assert "deregistered" in await client.call.details()


async def test_a_proxy_that_was_deregistered_is_denied(plane, server, connect, until):
    await plane.remove(plane.gateway)
    await until(lambda: plane.gateway.id not in server.publisher.world.proxies)
    async with connect(server, plane.identity) as client:
        assert await client.end() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("claimed", ["another role", "another fleet"])
async def test_a_certificate_for_another_role_or_fleet_is_denied(plane, server, connect, claimed):
    """The proxy of that id is declared, but not as what the certificate says."""
    identity = (
        Identity(plane.fleet.id, Role.EXIT, plane.gateway.id)
        if claimed == "another role"
        else Identity(uuid4(), Role.GATEWAY, plane.gateway.id)
    )
    async with connect(server, identity) as client:
        assert await client.end() is grpc.StatusCode.PERMISSION_DENIED


async def test_deregistering_a_gateway_ends_its_stream_and_no_other(plane, server, connect, has_all, until):
    second = await plane.add_gateway("gw-2")
    await until(lambda: second.proxy_id in server.publisher.world.proxies)
    async with connect(server, plane.identity) as gone, connect(server, second) as stays:
        for client in (gone, stays):
            await client.start()
            await client.until(has_all(2))
        await plane.remove(plane.gateway)
        assert await gone.end() is grpc.StatusCode.PERMISSION_DENIED
        await plane.add_pool("jp")
        await stays.until(has_all(3))


async def test_deregistering_an_exit_ends_its_stream_before_it_is_sent_the_loss_of_its_listener(plane, server, connect):
    async with connect(server, plane.exit_identity("us")) as client:
        await client.start()
        await client.until(lambda it: it.held(names.ROUTE))
        exit_ = plane.exits["us"]
        proxy = type(plane.gateway)(id=exit_.id, fleet_id=plane.fleet.id, name=exit_.name, role="exit")
        await plane.remove(exit_, proxy)
        assert await client.end() is grpc.StatusCode.PERMISSION_DENIED
        assert not [name for response in client.responses for name in response.removed_resources]


async def test_who_a_client_is_follows_from_its_certificate_and_not_from_its_node_id(plane, server, connect):
    exit_ = plane.exit_identity("us")
    async with connect(server, exit_, node_id=str(plane.gateway.id)) as client:
        await client.start()
        await client.until(lambda it: it.held(names.LISTENER))
        assert client.held(names.LISTENER) == {names.EXIT_LISTENER}


async def test_a_certificate_that_names_no_proxy_is_not_enough(plane, server, dial, authority):
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


async def test_the_server_proves_the_control_planes_name(plane, server, authority, certified):
    """A proxy's own certificate would not do: then any exit could pose as the control plane."""
    context = ssl.create_default_context(cadata=authority.certificate_pem)
    certified(context, plane.identity, authority)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await asyncio.open_connection(
            "127.0.0.1", server.ports[0], ssl=context, server_hostname="gateway.exitplane.internal"
        )
