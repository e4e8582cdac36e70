"""Cost follows the change: resources that it does not affect are not translated, encoded or sent."""

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
from xds.server import publisher as publisher_module
from xds.server.publisher import Publisher
from xds.snapshot.snapshot import build
from xds.translate import names
from xds.translate.resource_ids import USERS, ResourceId
from xds.translate.scopes import ExitGroup, ExitOverlay, GatewayEndpoints, GatewayGroup
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
    """A publisher with streams of the gateway and of each exit in the first three pools."""
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
    """Add a gateway at a locality, and open its stream."""
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
    """Record the resources that are translated from now on."""
    return translations(GatewayGroup, GatewayEndpoints, ExitGroup, ExitOverlay)


@pytest.mark.parametrize("pools", [3, 200])
def test_changed_exit_translates_its_pool_endpoints_and_its_overlay(world, publisher, translated):
    exit_ = next(iter(world.exits.values()))
    publish(publisher, put(replace(exit_, state=ExitState.LOST)))
    of_pool = ResourceId(names.ENDPOINT, names.pool_cluster(world.pools[exit_.pool_id]))
    assert translated.pop(endpoints(world).key) == [of_pool]
    assert {each.name for each in translated.pop(ExitOverlay(exit_.id).key)} == {"gateways"}
    assert translated == {}


def test_moved_exit_translates_endpoints_of_both_pools(world, publisher, translated):
    exit_ = next(iter(world.exits.values()))
    other = world.pools[first_pools(world)[1]]
    publish(publisher, put(replace(exit_, pool_id=other.id)))
    clusters = {names.pool_cluster(world.pools[exit_.pool_id]), names.pool_cluster(other)}
    assert {(each.type_url, each.name) for each in translated[endpoints(world).key]} == {
        (names.ENDPOINT, cluster) for cluster in clusters
    }
    assert len(translated[endpoints(world).key]) == 2
    assert gateways(world).key not in translated


def test_new_pool_translates_its_own_resources_and_routes(world, publisher, translated):
    pool = replace(world.pools[first_pools(world)[0]], id=next(iter(world.fleets)), country="zz", name="new")
    publish(publisher, put(pool))
    assert sorted(each.type_url for each in translated.pop(gateways(world).key)) == [names.CLUSTER, names.ROUTE]
    assert translated == {endpoints(world).key: [ResourceId(names.ENDPOINT, names.pool_cluster(pool))]}


def test_scopes_without_streams_are_not_translated(world, publisher, translated):
    other = Fleet(next(iter(world.listeners)), "other")
    last_exit = [*world.exits.values()][-1]
    publish(publisher, put(other))
    publish(publisher, put(Proxy(last_exit.pool_id, other.id, "gw", Role.GATEWAY)))
    assert translated == {}
    publish(publisher, put(replace(last_exit, egress_address="10.0.0.1")))
    assert [*translated] == [endpoints(world).key]


def test_only_rollouts_of_affected_scopes_are_advanced(world, publisher, monkeypatch):
    asked = []
    advance = publisher_module.advance

    def record(rollout, *given, **options):
        asked.append(rollout.wanted.scope)
        return advance(rollout, *given, **options)

    monkeypatch.setattr(publisher_module, "advance", record)
    exit_ = next(iter(world.exits.values()))
    publish(publisher, put(replace(exit_, state=ExitState.LOST)))
    assert set(asked) == {endpoints(world), ExitOverlay(exit_.id)}


def test_unaffected_resources_stay_the_same_objects(world, publisher, content):
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


def test_gateways_at_one_locality_share_all_snapshots(world, publisher, translated):
    first = open_gateway(publisher, 1, EU)
    assert [*translated] == [endpoints(world, EU).key]
    translated.clear()
    second = open_gateway(publisher, 2, Locality("eu", "a"))
    assert all(one is other for one, other in zip(first.view.snapshots, second.view.snapshots, strict=True))
    assert translated == {}


def test_gateways_at_two_localities_share_all_but_endpoints(world, publisher, translated):
    boxes = [open_gateway(publisher, number, locality) for number, locality in enumerate((EU, US), 1)]
    (one, one_endpoints), (other, other_endpoints) = (box.view.snapshots for box in boxes)
    assert one is other is publisher._rollouts[gateways(world).key].stable
    assert names.ENDPOINT not in one.resources
    assert [*one_endpoints.resources] == [*other_endpoints.resources] == [names.ENDPOINT]
    assert {*translated} == {endpoints(world, EU).key, endpoints(world, US).key}


def test_changed_exit_is_translated_once_per_gateway_locality(world, publisher, translated):
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


def test_endpoints_of_a_locality_without_gateways_are_not_translated(world, publisher, translated):
    box = open_gateway(publisher, 1, EU)
    publish(publisher, put(replace(publisher.world.proxies[UUID(int=1)], locality=US)))
    assert box.view.snapshots[1].scope == endpoints(world, US)
    translated.clear()
    publish(publisher, put(replace(next(iter(world.exits.values())), state=ExitState.LOST)))
    assert endpoints(world, EU).key not in {*translated, *publisher._rollouts}


def test_moved_gateway_is_sent_only_differing_endpoints(world, publisher):
    """They differ for one pool: the only one with an exit at a known locality."""
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
    """Return the names by type URL that are sent to a client that makes these requests and accepts everything."""
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


def test_change_wakes_only_affected_streams(world):
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


def test_updates_for_a_busy_stream_are_merged(world, publisher):
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
    """Hashes of strings, and so the order of sets, differ between processes."""
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
    assert len(printed.pop().splitlines()) == 5 + 2 * 2 + 2 + 2 + len(USERS)


def test_version_is_hash_of_bytes_alone(make_world):
    one, other = make_world(2), make_world(2).changed(99, [])
    scope = gateways(one)
    for type_url, resources in build(scope, one).resources.items():
        for name, resource in resources.items():
            same = build(scope, other).resources[type_url][name]
            assert (same.version, same.body) == (resource.version, resource.body)
    versions = [each.version for resources in build(scope, one).resources.values() for each in resources.values()]
    assert len(set(versions)) == len(versions)
