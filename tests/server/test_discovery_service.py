"""The discovery services: a proxy gets everything once, then changes; equal on every replica and after every restart."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from model.exit_states import ExitState
from xds.translate import names
from xds.wire.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from xds.wire.endpoint_pb2 import ClusterLoadAssignment

pytestmark = pytest.mark.postgres


def addresses(client, cluster: str) -> list[str]:
    assignment = ClusterLoadAssignment.FromString(client.bodies[names.ENDPOINT, cluster])
    return [each.endpoint.address.socket_address.address for part in assignment.endpoints for each in part.lb_endpoints]


async def test_gateway_gets_clusters_endpoints_listener_and_routes(fleet_db, server, connect, has_all):
    async with connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        assert (
            client.held(names.CLUSTER)
            == client.held(names.ENDPOINT)
            == {fleet_db.cluster("us"), fleet_db.cluster("de")}
        )
        assert client.held(names.LISTENER) == {names.GATEWAY_LISTENER}
        assert client.held(names.ROUTE) == {names.GATEWAY_ROUTES}
        assert addresses(client, fleet_db.cluster("us")) == ["198.51.100.1"]
        assert [response.type_url for response in client.responses].index(names.CLUSTER) < [
            response.type_url for response in client.responses
        ].index(names.ROUTE)


async def test_exit_gets_listener_routes_and_targets(fleet_db, server, connect):
    async with connect(server, fleet_db.exit_identity("us")) as client:
        await client.start()
        await client.until(lambda it: it.held(names.ROUTE) and it.held(names.CLUSTER))
        assert client.held(names.LISTENER) == {names.EXIT_LISTENER}
        assert client.held(names.ROUTE) == {names.EXIT_ROUTES}
        assert client.held(names.CLUSTER) == {names.TARGETS}


async def test_write_pushes_only_changed_resource(fleet_db, server, connect, has_all, until):
    async with connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await until(lambda: not server.publisher.rollouts_in_progress())
        before = len(client.responses)
        revision = await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
        await client.until(lambda it: addresses(it, fleet_db.cluster("us")) == ["198.51.100.2"])
        (pushed,) = client.responses[before:]
        assert [resource.name for resource in pushed.resources] == [fleet_db.cluster("us")]
        assert pushed.system_version_info == str(revision)


async def test_unhealthy_exit_leaves_pool_and_returns(fleet_db, server, connect, has_all):
    async with connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await fleet_db.change(fleet_db.exits["us"], state=ExitState.UNREACHABLE)
        await client.until(lambda it: addresses(it, fleet_db.cluster("us")) == [])
        await fleet_db.change(fleet_db.exits["us"], state=ExitState.HEALTHY)
        await client.until(lambda it: addresses(it, fleet_db.cluster("us")) == ["198.51.100.1"])


async def test_pool_is_added_and_removed(fleet_db, server, connect, has_all):
    async with connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await fleet_db.add_pool("jp")
        await client.until(has_all(3))
        await fleet_db.remove(fleet_db.exits["jp"], fleet_db.pools["jp"])
        await client.until(lambda it: len(it.held(names.CLUSTER)) == 2)
        gone = [name for response in client.responses for name in response.removed_resources]
        assert fleet_db.cluster("jp") in gone


async def test_concurrent_writes_arrive_as_last_state(fleet_db, server, connect, has_all):
    async with connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await asyncio.gather(*(fleet_db.change(fleet_db.exits["us"], endpoint=f"198.51.100.{n}") for n in range(2, 42)))
        async with fleet_db.database.session() as session:
            last = (await session.get(type(fleet_db.exits["us"]), fleet_db.exits["us"].id)).endpoint
        await client.until(lambda it: addresses(it, fleet_db.cluster("us")) == [last])


async def test_exit_moved_to_other_pool_gets_its_routes(fleet_db, server, connect):
    async with connect(server, fleet_db.exit_identity("us")) as client:
        await client.start()
        await client.until(lambda it: it.held(names.ROUTE))
        before = client.versions[names.ROUTE][names.EXIT_ROUTES]
        await fleet_db.change(fleet_db.exits["us"], pool_id=fleet_db.pools["de"].id)
        await client.until(lambda it: it.versions[names.ROUTE][names.EXIT_ROUTES] != before)


async def test_two_replicas_send_equal_versions(fleet_db, server, serve, drive, until, has_all):
    async with serve() as other, drive(server, fleet_db.identity) as one, drive(other, fleet_db.identity) as two:
        assert server.ports != other.ports

        async def hold_the_same(pools):
            await until(lambda: all(has_all(pools)(each.client) for each in (one, two)))
            await until(
                lambda: not server.publisher.rollouts_in_progress() and not other.publisher.rollouts_in_progress()
            )
            assert one.client.versions == two.client.versions
            assert one.client.bodies == two.client.bodies

        await hold_the_same(2)
        await fleet_db.add_pool("jp")
        await hold_the_same(3)


async def test_restart_resends_nothing_and_delivers_next_change(fleet_db, serve, connect, has_all):
    async with serve() as server, connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        held = client.versions
    async with serve() as server, connect(server, fleet_db.identity) as client:
        await client.start(held)
        await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
        await client.until(lambda it: it.versions[names.ENDPOINT] != held[names.ENDPOINT])
        (only,) = client.responses  # anything sent before the change would come first
        assert [resource.name for resource in only.resources] == [fleet_db.cluster("us")]


async def test_reconnecting_proxy_gets_only_changes(fleet_db, serve, connect, has_all):
    async with serve() as server, connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        held = client.versions
    await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
    await fleet_db.remove(fleet_db.exits["de"], fleet_db.pools["de"])
    async with serve() as server, connect(server, fleet_db.identity) as client:
        await client.start(held)
        await client.until(has_all(1))
        await client.until(lambda it: it.versions[names.ENDPOINT] != held[names.ENDPOINT])
        assert client.count(names.LISTENER) == 0
        sent = [resource.name for response in client.responses for resource in response.resources]
        assert sorted(sent) == sorted([fleet_db.cluster("us"), names.GATEWAY_ROUTES])


async def test_sotw_variant_is_served(fleet_db, server, dial, speak_sotw):
    async with dial(server, fleet_db.identity) as channel:
        client = speak_sotw(channel)
        await client.ask(names.CLUSTER)
        response = await client.read()
        assert len(response.resources) == 2
        await client.ask(names.CLUSTER, response_nonce=response.nonce, version_info=response.version_info)
        await fleet_db.add_pool("jp")
        assert len((await client.read()).resources) == 3


async def test_each_type_has_its_own_service(fleet_db, server, dial):
    services = {
        "cluster": ("ClusterDiscoveryService/DeltaClusters", names.CLUSTER),
        "listener": ("ListenerDiscoveryService/DeltaListeners", names.LISTENER),
        "route": ("RouteDiscoveryService/DeltaRoutes", names.ROUTE),
        "endpoint": ("EndpointDiscoveryService/DeltaEndpoints", names.ENDPOINT),
    }
    wanted = {names.ROUTE: names.GATEWAY_ROUTES, names.ENDPOINT: fleet_db.cluster("us")}
    async with dial(server, fleet_db.identity) as channel:
        for package, (method, type_url) in services.items():
            call = channel.stream_stream(f"/envoy.service.{package}.v3.{method}")()
            subscribe = [wanted[type_url]] if type_url in wanted else []
            await call.write(DeltaDiscoveryRequest(resource_names_subscribe=subscribe).SerializeToString())
            async with asyncio.timeout(60):
                response = DeltaDiscoveryResponse.FromString(await call.read())
            assert response.type_url == type_url
            assert response.resources
            call.cancel()


FETCHES = ["cluster.v3.ClusterDiscoveryService/FetchClusters", "listener.v3.ListenerDiscoveryService/FetchListeners"]


@pytest.mark.parametrize("method", FETCHES)
async def test_fetch_methods_are_not_served(fleet_db, server, dial, method):
    async with dial(server, fleet_db.identity) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/envoy.service.{method}")(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", DeltaDiscoveryRequest().SerializeToString() + b"\x12\x05ab"])
async def test_malformed_request_ends_only_its_stream(fleet_db, server, connect, has_all, raw):
    async with connect(server, fleet_db.identity) as good, connect(server, fleet_db.identity) as bad:
        await good.start()
        await good.until(has_all(2))
        await bad.call.write(raw)
        assert await bad.end() is grpc.StatusCode.INVALID_ARGUMENT
        await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
        await good.until(lambda it: addresses(it, fleet_db.cluster("us")) == ["198.51.100.2"])


async def test_disconnected_client_leaves_no_state(fleet_db, server, connect, has_all, until):
    async with connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        assert server.publisher.streams == 1
    await until(lambda: server.publisher.streams == 0)
    assert server.publisher._rollouts == {}
    async with connect(server, fleet_db.identity) as client:
        await client.call.done_writing()
        assert await client.end() is grpc.StatusCode.OK
    await until(lambda: server.publisher.streams == 0)


async def test_moved_listener_is_pushed(fleet_db, server, connect, has_all):
    async with connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        before = client.versions[names.LISTENER][names.GATEWAY_LISTENER]
        await fleet_db.change(fleet_db.listener, port=8081)
        await client.until(lambda it: it.versions[names.LISTENER][names.GATEWAY_LISTENER] != before)


async def test_endpoints_follow_clusters_of_another_stream(fleet_db, server, connect):
    method = "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters"
    async with connect(server, fleet_db.identity) as client:
        clusters = client.channel.stream_stream(method)()
        await clusters.write(DeltaDiscoveryRequest().SerializeToString())
        first = DeltaDiscoveryResponse.FromString(await clusters.read())
        name = fleet_db.cluster("us")
        await client.ask(names.ENDPOINT, name)
        await client.until(lambda it: it.held(names.ENDPOINT) == {name})
        await clusters.write(DeltaDiscoveryRequest(response_nonce=first.nonce).SerializeToString())
        await client.until(lambda it: it.count(names.ENDPOINT) == 2)
        await fleet_db.change(fleet_db.pools["us"], resilience={"check_interval_s": 9})
        changed = DeltaDiscoveryResponse.FromString(await clusters.read())
        assert [each.name for each in changed.resources] == [name]
        await clusters.write(DeltaDiscoveryRequest(response_nonce=changed.nonce).SerializeToString())
        await client.until(lambda it: it.count(names.ENDPOINT) == 3)
        clusters.cancel()
