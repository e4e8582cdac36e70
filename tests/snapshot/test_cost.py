"""Cost follows the change: what does not depend on it is neither translated nor encoded, nor sent."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from model.identity import Identity
from model.world import Change, ExitState, Fleet, Kind, Proxy, Role, World, put
from xds.server.publisher import Publisher
from xds.snapshot.snapshot import build
from xds.translate import names
from xds.translate.group import ExitGroup, ExitOverlay, GatewayGroup, ResourceId


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


def publish(publisher, *changes) -> World:
    assert publisher.world is not None
    newer = publisher.world.changed(publisher.world.revision + 1, changes)
    publisher.publish(newer, changes)
    return newer


@pytest.fixture
def translated(publisher, translations):
    """What is translated from now on."""
    return translations(GatewayGroup, ExitGroup, ExitOverlay)


@pytest.mark.parametrize("pools", [3, 200])
def test_one_exit_among_many_pools_is_one_resource_of_the_gateways_and_its_own(world, publisher, translated):
    exit_ = next(iter(world.exits.values()))
    publish(publisher, put(replace(exit_, state=ExitState.LOST)))
    endpoints = ResourceId(names.ENDPOINT, names.pool_cluster(world.pools[exit_.pool_id]))
    assert translated.pop(gateways(world).key) == [endpoints]
    assert {each.name for each in translated.pop(ExitOverlay(exit_.id).key)} == {"gateways", "targets"}
    assert translated == {}


def test_an_exit_that_moves_is_the_endpoints_of_two_pools(world, publisher, translated):
    exit_ = next(iter(world.exits.values()))
    other = world.pools[first_pools(world)[1]]
    publish(publisher, put(replace(exit_, pool_id=other.id)))
    clusters = {names.pool_cluster(world.pools[exit_.pool_id]), names.pool_cluster(other)}
    assert {(each.type_url, each.name) for each in translated[gateways(world).key]} == {
        (names.ENDPOINT, cluster) for cluster in clusters
    }
    assert len(translated[gateways(world).key]) == 2


def test_a_new_pool_is_its_own_resources_and_the_routes(world, publisher, translated):
    pool = replace(world.pools[first_pools(world)[0]], id=next(iter(world.fleets)), country="zz", name="new")
    publish(publisher, put(pool))
    assert sorted(each.type_url for each in translated[gateways(world).key]) == sorted(
        [names.CLUSTER, names.ENDPOINT, names.ROUTE]
    )


def test_what_concerns_nobody_who_listens_is_not_translated(world, publisher, translated):
    other = Fleet(next(iter(world.listeners)), "other")
    last_exit = [*world.exits.values()][-1]
    publish(publisher, put(other))
    publish(publisher, put(Proxy(last_exit.pool_id, other.id, "gw", Role.GATEWAY)))
    assert translated == {}
    publish(publisher, put(replace(last_exit, egress_address="10.0.0.1")))
    assert [*translated] == [gateways(world).key]


def test_scopes_that_a_change_cannot_concern_are_not_even_asked(world, publisher, monkeypatch):
    asked = []
    for scope_class in (GatewayGroup, ExitGroup, ExitOverlay):
        touched = scope_class.touched
        monkeypatch.setattr(
            scope_class, "touched", lambda scope, *given, f=touched: asked.append(scope) or f(scope, *given)
        )
    exit_ = next(iter(world.exits.values()))
    publish(publisher, put(replace(exit_, state=ExitState.LOST)))
    assert set(asked) == {gateways(world), ExitOverlay(exit_.id)}


def test_what_is_not_translated_keeps_its_very_bytes(world, publisher, content):
    scope = gateways(world)
    before = build(scope, world)
    exit_ = next(iter(world.exits.values()))
    newer = world.changed(2, [put(replace(exit_, state=ExitState.LOST))])
    publisher.publish(newer, [put(newer.exits[exit_.id])])
    proxy = next(proxy for proxy in world.proxies.values() if proxy.role is Role.GATEWAY)
    held = publisher.open(Identity(proxy.fleet_id, proxy.role, proxy.id)).view.snapshots[0]
    shared = [
        resources[name] is held.resources[type_url][name]
        for type_url, resources in publisher._snapshots[scope.key].resources.items()
        for name in resources
    ]
    assert all(shared)
    changed = {key for key, value in content(before).items() if content(held)[key] != value}
    assert changed == {(names.ENDPOINT, names.pool_cluster(world.pools[exit_.pool_id]))}


def test_all_gateways_of_a_fleet_share_one_snapshot(world, publisher, translated):
    fleet_id = gateways(world).fleet_id
    second = Proxy(next(iter(world.listeners)), fleet_id, "gw-2", Role.GATEWAY)
    publish(publisher, put(second))
    box = publisher.open(Identity(fleet_id, Role.GATEWAY, second.id))
    assert box.view.snapshots[0] is publisher._snapshots[gateways(world).key]
    assert translated == {}


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
from model.world import Exit, ExitState, Fleet, Listener, Pool, Proxy, Role, World, put
from xds.snapshot.snapshot import build
from xds.translate.group import ExitGroup, ExitOverlay, GatewayGroup
fleet = Fleet(UUID(int=1), "demo")
pools = [Pool(UUID(int=100 + number), fleet.id, f"pool-{number}", country) for number, country in enumerate(("us", "de"))]
exits = [Exit(UUID(int=200 + number), pools[0].id, f"exit-{number}", f"198.51.100.{number}", 1, ExitState.HEALTHY,
              egress_address="10.0.0.1") for number in range(9)]
world = World().changed(1, map(put, [fleet, Listener(UUID(int=2), fleet.id, "127.0.0.1", 8080), *pools, *exits]))
for scope in (GatewayGroup(fleet.id), ExitGroup(pools[0].id), ExitOverlay(exits[0].id)):
    for type_url, resources in sorted(build(scope, world).resources.items()):
        for name, resource in sorted(resources.items()):
            print(type_url, name, resource.version, resource.body.hex())
"""


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
    assert len(printed.pop().splitlines()) == 6 + 2 + 2


def test_a_version_is_the_hash_of_the_bytes_and_of_nothing_else(make_world):
    one, other = make_world(2), make_world(2).changed(99, [])
    scope = gateways(one)
    for type_url, resources in build(scope, one).resources.items():
        for name, resource in resources.items():
            same = build(scope, other).resources[type_url][name]
            assert (same.version, same.body) == (resource.version, resource.body)
    versions = [each.version for resources in build(scope, one).resources.values() for each in resources.values()]
    assert len(set(versions)) == len(versions)
