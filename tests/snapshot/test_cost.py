"""Cost follows the change: what does not depend on it is neither translated nor encoded, nor sent."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from uuid import UUID

import pytest

from model.entities import Fleet, Proxy, Role
from model.exit_states import ExitState
from model.identity import Identity
from model.locality import Locality
from model.world import Change, Kind, World, put
from xds.protocol.messages import Variant
from xds.protocol.stream import Send, XdsStream
from xds.server.publisher import Publisher
from xds.snapshot.snapshot import build
from xds.translate import names
from xds.translate.scopes import ExitGroup, ExitOverlay, GatewayEndpoints, GatewayGroup, ResourceId
from xds.wire.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

EU, US = Locality("eu", "a"), Locality("us")


@pytest.fixture
def pools() -> int:
    return 10


@pytest.fixture
def world(make_world, pools) -> World:
    return make_world(pools, 2)


@pytest.fixture
def publisher(world) -> Publisher:
    """It has a stream of the gateway and one of each exit in the first three pools."""
    started = Publisher()
    started.start(world)
    for proxy in world.proxies.values():
        if proxy.role is Role.GATEWAY or world.exits[proxy.id].pool_id in first_pools(world):
            started.open(Identity(proxy.fleet_id, proxy.role, proxy.id))
    return started


def first_pools(world):
    return [*world.pools][:3]


def gateways(world) -> GatewayGroup:
    return GatewayGroup(next(iter(world.fleets)))


def endpoints(world, locality=None) -> GatewayEndpoints:
    return GatewayEndpoints(next(iter(world.fleets)), locality)


def open_gateway(publisher, number, locality):
    """One more gateway of the fleet, that stands at `locality`, and its stream."""
    fleet_id = next(iter(publisher.world.fleets))
    gateway = Proxy(UUID(int=number), fleet_id, f"gw-{number}", Role.GATEWAY, locality)
    publish(publisher, put(gateway))
    return publisher.open(Identity(fleet_id, Role.GATEWAY, gateway.id))


def publish(publisher, *changes) -> World:
    assert publisher.world is not None
    newer = publisher.world.changed(publisher.world.revision + 1, changes)
    publisher.publish(newer, changes)
    return newer


@pytest.fixture
def translated(publisher, translations):
    """What is translated from now on."""
    return translations(GatewayGroup, GatewayEndpoints, ExitGroup, ExitOverlay)


@pytest.mark.parametrize("pools", [3, 200])
def test_one_exit_among_many_pools_is_one_resource_of_the_gateways_and_its_own(world, publisher, translated):
    exit_ = next(iter(world.exits.values()))
    publish(publisher, put(replace(exit_, state=ExitState.LOST)))
    of_pool = ResourceId(names.ENDPOINT, names.pool_cluster(world.pools[exit_.pool_id]))
    assert translated.pop(endpoints(world).key) == [of_pool]
    assert {each.name for each in translated.pop(ExitOverlay(exit_.id).key)} == {"gateways"}
    assert translated == {}


def test_an_exit_that_moves_is_the_endpoints_of_two_pools(world, publisher, translated):
    exit_ = next(iter(world.exits.values()))
    other = world.pools[first_pools(world)[1]]
    publish(publisher, put(replace(exit_, pool_id=other.id)))
    clusters = {names.pool_cluster(world.pools[exit_.pool_id]), names.pool_cluster(other)}
    assert {(each.type_url, each.name) for each in translated[endpoints(world).key]} == {
        (names.ENDPOINT, cluster) for cluster in clusters
    }
    assert len(translated[endpoints(world).key]) == 2
    assert gateways(world).key not in translated


def test_a_new_pool_is_its_own_resources_and_the_routes(world, publisher, translated):
    pool = replace(world.pools[first_pools(world)[0]], id=next(iter(world.fleets)), country="zz", name="new")
    publish(publisher, put(pool))
    assert sorted(each.type_url for each in translated.pop(gateways(world).key)) == [names.CLUSTER, names.ROUTE]
    assert translated == {endpoints(world).key: [ResourceId(names.ENDPOINT, names.pool_cluster(pool))]}


def test_what_concerns_nobody_who_listens_is_not_translated(world, publisher, translated):
    other = Fleet(next(iter(world.listeners)), "other")
    last_exit = [*world.exits.values()][-1]
    publish(publisher, put(other))
    publish(publisher, put(Proxy(last_exit.pool_id, other.id, "gw", Role.GATEWAY)))
    assert translated == {}
    publish(publisher, put(replace(last_exit, egress_address="10.0.0.1")))
    assert [*translated] == [endpoints(world).key]


def test_scopes_that_a_change_cannot_concern_are_not_even_asked(world, publisher, monkeypatch):
    asked = []
    for scope_class in (GatewayGroup, GatewayEndpoints, ExitGroup, ExitOverlay):
        touched = scope_class.touched
        monkeypatch.setattr(
            scope_class, "touched", lambda scope, *given, f=touched: asked.append(scope) or f(scope, *given)
        )
    exit_ = next(iter(world.exits.values()))
    publish(publisher, put(replace(exit_, state=ExitState.LOST)))
    assert set(asked) == {endpoints(world), ExitOverlay(exit_.id)}


def test_what_is_not_translated_keeps_its_very_bytes(world, publisher, content):
    before = {scope.key: build(scope, world) for scope in (gateways(world), endpoints(world))}
    exit_ = next(iter(world.exits.values()))
    newer = world.changed(2, [put(replace(exit_, state=ExitState.LOST))])
    publisher.publish(newer, [put(newer.exits[exit_.id])])
    proxy = next(proxy for proxy in world.proxies.values() if proxy.role is Role.GATEWAY)
    changed = set()
    for held in publisher.open(Identity(proxy.fleet_id, proxy.role, proxy.id)).view.snapshots:
        key = held.scope.key
        shared = [
            resources[name] is held.resources[type_url][name]
            for type_url, resources in publisher._rollouts[key].wanted.resources.items()
            for name in resources
        ]
        assert all(shared)
        changed |= {each for each, value in content(before.pop(key)).items() if content(held)[each] != value}
    assert changed == {(names.ENDPOINT, names.pool_cluster(world.pools[exit_.pool_id]))}
    assert not before


def test_all_gateways_of_a_fleet_at_one_locality_share_every_snapshot(world, publisher, translated):
    first = open_gateway(publisher, 1, EU)
    assert [*translated] == [endpoints(world, EU).key]
    translated.clear()
    second = open_gateway(publisher, 2, Locality("eu", "a"))
    assert all(one is other for one, other in zip(first.view.snapshots, second.view.snapshots, strict=True))
    assert translated == {}


def test_gateways_of_two_localities_share_all_but_their_endpoints(world, publisher, translated):
    boxes = [open_gateway(publisher, number, locality) for number, locality in enumerate((EU, US), 1)]
    (one, one_endpoints), (other, other_endpoints) = (box.view.snapshots for box in boxes)
    assert one is other is publisher._rollouts[gateways(world).key].settled
    assert names.ENDPOINT not in one.resources
    assert [*one_endpoints.resources] == [*other_endpoints.resources] == [names.ENDPOINT]
    assert {*translated} == {endpoints(world, EU).key, endpoints(world, US).key}


def test_an_exit_is_translated_once_for_each_locality_of_its_fleets_gateways(world, publisher, translated):
    for number, locality in enumerate((EU, EU, EU, US), 1):
        open_gateway(publisher, number, locality)
    translated.clear()
    exit_ = next(iter(world.exits.values()))
    for change in (replace(exit_, state=ExitState.LOST), replace(exit_, locality=EU)):
        publish(publisher, put(change))
        of_pool = ResourceId(names.ENDPOINT, names.pool_cluster(world.pools[exit_.pool_id]))
        translated.pop(ExitOverlay(exit_.id).key)
        assert translated == {endpoints(world, locality).key: [of_pool] for locality in (None, EU, US)}
        translated.clear()


def test_endpoints_at_a_locality_that_the_last_gateway_left_are_translated_no_more(world, publisher, translated):
    box = open_gateway(publisher, 1, EU)
    publish(publisher, put(replace(publisher.world.proxies[UUID(int=1)], locality=US)))
    assert box.view.snapshots[1].scope == endpoints(world, US)
    translated.clear()
    publish(publisher, put(replace(next(iter(world.exits.values())), state=ExitState.LOST)))
    assert endpoints(world, EU).key not in {*translated, *publisher._rollouts}


def test_a_gateway_that_moves_is_given_other_endpoints_where_they_differ_and_nothing_else(world, publisher):
    """Here they differ for one pool: the only one that has an exit at a known place."""
    exit_ = next(iter(world.exits.values()))
    publish(publisher, put(replace(exit_, locality=EU)))
    gateway = next(proxy for proxy in world.proxies.values() if proxy.role is Role.GATEWAY)
    identity = Identity(gateway.fleet_id, gateway.role, gateway.id)
    box = publisher.open(identity)
    stream = XdsStream(Variant.DELTA, identity, box.view)
    first = {kind: {*box.view.names(kind)} for kind in (names.CLUSTER, names.LISTENER, names.ENDPOINT, names.ROUTE)}
    assert converse(stream, [subscribe(kind, resources) for kind, resources in first.items()]) == first
    publish(publisher, put(replace(gateway, locality=EU)))
    of_pool = names.pool_cluster(world.pools[exit_.pool_id])
    assert converse(stream, [], stream.publish(*box.take(), 0.0)) == {names.ENDPOINT: {of_pool}}
    publish(publisher, put(replace(gateway, name="renamed", locality=EU)))
    assert not box.event.is_set()


def subscribe(type_url, resources) -> DeltaDiscoveryRequest:
    return DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=sorted(resources))


def converse(stream, requests, actions=()) -> dict[str, set[str]]:
    """The names by type URL that a client is sent, which makes these requests and accepts everything."""
    sent: dict[str, set[str]] = {}
    pending = [*actions]
    while requests or pending:
        if pending:
            if isinstance(action := pending.pop(0), Send):
                response = DeltaDiscoveryResponse.FromString(action.data)
                assert not response.removed_resources
                sent.setdefault(action.type_url, set()).update(resource.name for resource in response.resources)
                requests = [*requests, DeltaDiscoveryRequest(type_url=action.type_url, response_nonce=action.nonce)]
        else:
            request, *requests = requests
            pending += stream.receive(request.SerializeToString(), 0.0)
    return sent


def test_a_change_wakes_only_the_streams_that_it_concerns(world):
    publisher = Publisher()
    publisher.start(world)
    boxes = {
        proxy.id: publisher.open(Identity(proxy.fleet_id, proxy.role, proxy.id)) for proxy in world.proxies.values()
    }
    exit_ = next(iter(world.exits.values()))
    publish(publisher, put(replace(exit_, port=9000)))
    woken = {proxy_id for proxy_id, box in boxes.items() if box.event.is_set()}
    assert woken == {exit_.id, *(proxy.id for proxy in world.proxies.values() if proxy.role is Role.GATEWAY)}
    for box in boxes.values():
        box.take()
    publish(publisher, Change(Kind.EXIT, exit_.id, None), Change(Kind.PROXY, exit_.id, None))
    woken = {proxy_id for proxy_id, box in boxes.items() if box.event.is_set()}
    assert woken == {exit_.id, *(proxy.id for proxy in world.proxies.values() if proxy.role is Role.GATEWAY)}


def test_what_comes_while_a_stream_is_busy_is_merged_into_one_update(world, publisher):
    proxy = next(proxy for proxy in world.proxies.values() if proxy.role is Role.GATEWAY)
    box = publisher.open(Identity(proxy.fleet_id, proxy.role, proxy.id))
    for exit_ in [*world.exits.values()][:4]:
        publish(publisher, put(replace(exit_, state=ExitState.LOST)))
    view, changed = box.take()
    pools = {world.exits[exit_id].pool_id for exit_id in [*world.exits][:4]}
    assert changed == {names.ENDPOINT: {names.pool_cluster(world.pools[pool_id]) for pool_id in pools}}
    assert view.revision == 5
    assert not box.event.is_set()


# -- versions ----------------------------------------------------------------------------------------------------------

PRINT_VERSIONS = """
from uuid import UUID
from model.entities import Exit, Fleet, Listener, Pool, Proxy, Role
from model.exit_states import ExitState
from model.world import World, put
from xds.snapshot.snapshot import build
from model.locality import Locality
from xds.translate.scopes import ExitGroup, ExitOverlay, GatewayEndpoints, GatewayGroup
fleet = Fleet(UUID(int=1), "demo")
pools = [Pool(UUID(int=100 + number), fleet.id, f"pool-{number}", country) for number, country in enumerate(("us", "de"))]
exits = [Exit(UUID(int=200 + number), pools[0].id, f"exit-{number}", f"198.51.100.{number}", 1, ExitState.HEALTHY,
              egress_address="10.0.0.1", locality=number and Locality(("us", "de", "jp")[number % 3]) or None)
         for number in range(9)]
world = World().changed(1, map(put, [fleet, Listener(UUID(int=2), fleet.id, "127.0.0.1", 8080), *pools, *exits]))
endpoints = [GatewayEndpoints(fleet.id, locality) for locality in (None, Locality("jp", "a"))]
for scope in (GatewayGroup(fleet.id), *endpoints, ExitGroup(pools[0].id), ExitOverlay(exits[0].id)):
    for type_url, resources in sorted(build(scope, world).resources.items()):
        for name, resource in sorted(resources.items()):
            print(type_url, name, resource.version, resource.body.hex())
"""


@pytest.mark.slow
def test_versions_are_equal_in_every_process():
    """Hashes of strings differ between processes, and with them the order of sets."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PRINT_VERSIONS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2", "3")
    ]
    printed = {run.communicate()[0] for run in runs}
    assert {run.returncode for run in runs} == {0}
    assert len(printed) == 1
    assert len(printed.pop().splitlines()) == 5 + 2 * 2 + 2 + 2


def test_a_version_is_the_hash_of_the_bytes_and_of_nothing_else(make_world):
    one, other = make_world(2), make_world(2).changed(99, [])
    scope = gateways(one)
    for type_url, resources in build(scope, one).resources.items():
        for name, resource in resources.items():
            same = build(scope, other).resources[type_url][name]
            assert (same.version, same.body) == (resource.version, resource.body)
    versions = [each.version for resources in build(scope, one).resources.values() for each in resources.values()]
    assert len(set(versions)) == len(versions)
