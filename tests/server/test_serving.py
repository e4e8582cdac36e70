"""What a proxy is sent: everything once, then what changed; the same by every replica and after every restart."""

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


async def test_a_gateway_is_sent_its_clusters_endpoints_listener_and_routes(plane, server, connect, has_all):
    async with connect(server, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))
        assert client.held(names.CLUSTER) == client.held(names.ENDPOINT) == {plane.cluster("us"), plane.cluster("de")}
        assert client.held(names.LISTENER) == {names.GATEWAY_LISTENER}
        assert client.held(names.ROUTE) == {names.GATEWAY_ROUTES}
        assert addresses(client, plane.cluster("us")) == ["198.51.100.1"]
        assert [response.type_url for response in client.responses].index(names.CLUSTER) < [
            response.type_url for response in client.responses
        ].index(names.ROUTE)


async def test_an_exit_is_sent_its_listener_routes_and_targets(plane, server, connect):
    async with connect(server, plane.exit_identity("us")) as client:
        await client.start()
        await client.until(lambda it: it.held(names.ROUTE) and it.held(names.CLUSTER))
        assert client.held(names.LISTENER) == {names.EXIT_LISTENER}
        assert client.held(names.ROUTE) == {names.EXIT_ROUTES}
        assert client.held(names.CLUSTER) == {names.TARGETS}


async def test_a_write_is_pushed_and_nothing_else_is(plane, server, connect, has_all, until):
    async with connect(server, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await until(lambda: not server.publisher.rolling_out())
        before = len(client.responses)
        revision = await plane.change(plane.exits["us"], endpoint="198.51.100.2")
        await client.until(lambda it: addresses(it, plane.cluster("us")) == ["198.51.100.2"])
        (pushed,) = client.responses[before:]
        assert [resource.name for resource in pushed.resources] == [plane.cluster("us")]
        assert pushed.system_version_info == str(revision)


async def test_an_unhealthy_exit_leaves_its_pool_and_comes_back(plane, server, connect, has_all):
    async with connect(server, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await plane.change(plane.exits["us"], state=ExitState.UNREACHABLE)
        await client.until(lambda it: addresses(it, plane.cluster("us")) == [])
        await plane.change(plane.exits["us"], state=ExitState.HEALTHY)
        await client.until(lambda it: addresses(it, plane.cluster("us")) == ["198.51.100.1"])


async def test_a_pool_comes_and_goes(plane, server, connect, has_all):
    async with connect(server, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await plane.add_pool("jp")
        await client.until(has_all(3))
        await plane.remove(plane.exits["jp"], plane.pools["jp"])
        await client.until(lambda it: len(it.held(names.CLUSTER)) == 2)
        gone = [name for response in client.responses for name in response.removed_resources]
        assert plane.cluster("jp") in gone


async def test_many_writes_at_once_arrive_as_their_last_state(plane, server, connect, has_all):
    async with connect(server, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await asyncio.gather(*(plane.change(plane.exits["us"], endpoint=f"198.51.100.{n}") for n in range(2, 42)))
        async with plane.database.session() as session:
            last = (await session.get(type(plane.exits["us"]), plane.exits["us"].id)).endpoint
        await client.until(lambda it: addresses(it, plane.cluster("us")) == [last])


async def test_an_exit_whose_pool_changes_is_given_the_routes_of_the_other(plane, server, connect):
    async with connect(server, plane.exit_identity("us")) as client:
        await client.start()
        await client.until(lambda it: it.held(names.ROUTE))
        before = client.versions[names.ROUTE][names.EXIT_ROUTES]
        await plane.change(plane.exits["us"], pool_id=plane.pools["de"].id)
        await client.until(lambda it: it.versions[names.ROUTE][names.EXIT_ROUTES] != before)


async def test_two_replicas_send_equal_versions(plane, server, serve, drive, until, has_all):
    async with serve() as other, drive(server, plane.identity) as one, drive(other, plane.identity) as two:
        assert server.ports != other.ports

        async def hold_the_same(pools):
            await until(lambda: all(has_all(pools)(each.client) for each in (one, two)))
            await until(lambda: not server.publisher.rolling_out() and not other.publisher.rolling_out())
            assert one.client.versions == two.client.versions
            assert one.client.bodies == two.client.bodies

        await hold_the_same(2)
        await plane.add_pool("jp")
        await hold_the_same(3)


async def test_after_a_restart_nothing_is_sent_again_and_the_next_change_still_arrives(plane, serve, connect, has_all):
    async with serve() as server, connect(server, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))
        held = client.versions
    async with serve() as server, connect(server, plane.identity) as client:
        await client.start(held)
        await plane.change(plane.exits["us"], endpoint="198.51.100.2")
        await client.until(lambda it: it.versions[names.ENDPOINT] != held[names.ENDPOINT])
        (only,) = client.responses  # what was sent before the change would have come before it
        assert [resource.name for resource in only.resources] == [plane.cluster("us")]


async def test_what_changed_while_a_proxy_was_away_is_all_that_it_is_sent(plane, serve, connect, has_all):
    async with serve() as server, connect(server, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))
        held = client.versions
    await plane.change(plane.exits["us"], endpoint="198.51.100.2")
    await plane.remove(plane.exits["de"], plane.pools["de"])
    async with serve() as server, connect(server, plane.identity) as client:
        await client.start(held)
        await client.until(has_all(1))
        await client.until(lambda it: it.versions[names.ENDPOINT] != held[names.ENDPOINT])
        assert client.count(names.LISTENER) == 0
        sent = [resource.name for response in client.responses for resource in response.resources]
        assert sorted(sent) == sorted([plane.cluster("us"), names.GATEWAY_ROUTES])


async def test_the_state_of_the_world_is_spoken_too(plane, server, dial, speak_sotw):
    async with dial(server, plane.identity) as channel:
        client = speak_sotw(channel)
        await client.ask(names.CLUSTER)
        response = await client.read()
        assert len(response.resources) == 2
        await client.ask(names.CLUSTER, response_nonce=response.nonce, version_info=response.version_info)
        await plane.add_pool("jp")
        assert len((await client.read()).resources) == 3


async def test_each_type_has_a_service_of_its_own(plane, server, dial):
    services = {
        "cluster": ("ClusterDiscoveryService/DeltaClusters", names.CLUSTER),
        "listener": ("ListenerDiscoveryService/DeltaListeners", names.LISTENER),
        "route": ("RouteDiscoveryService/DeltaRoutes", names.ROUTE),
        "endpoint": ("EndpointDiscoveryService/DeltaEndpoints", names.ENDPOINT),
    }
    wanted = {names.ROUTE: names.GATEWAY_ROUTES, names.ENDPOINT: plane.cluster("us")}
    async with dial(server, plane.identity) as channel:
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
async def test_fetching_is_not_served(plane, server, dial, method):
    async with dial(server, plane.identity) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/envoy.service.{method}")(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", DeltaDiscoveryRequest().SerializeToString() + b"\x12\x05ab"])
async def test_bytes_that_are_no_request_end_the_stream_and_no_other(plane, server, connect, has_all, raw):
    async with connect(server, plane.identity) as good, connect(server, plane.identity) as bad:
        await good.start()
        await good.until(has_all(2))
        await bad.call.write(raw)
        assert await bad.end() is grpc.StatusCode.INVALID_ARGUMENT
        await plane.change(plane.exits["us"], endpoint="198.51.100.2")
        await good.until(lambda it: addresses(it, plane.cluster("us")) == ["198.51.100.2"])


async def test_a_client_that_goes_away_leaves_nothing_behind(plane, server, connect, has_all, until):
    async with connect(server, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))
        assert server.publisher.streams == 1
    await until(lambda: server.publisher.streams == 0)
    assert server.publisher._rollouts == {}
    async with connect(server, plane.identity) as client:
        await client.call.done_writing()
        assert await client.end() is grpc.StatusCode.OK
    await until(lambda: server.publisher.streams == 0)


async def test_a_listener_that_moves_is_pushed(plane, server, connect, has_all):
    async with connect(server, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))
        before = client.versions[names.LISTENER][names.GATEWAY_LISTENER]
        await plane.change(plane.listener, port=8081)
        await client.until(lambda it: it.versions[names.LISTENER][names.GATEWAY_LISTENER] != before)
