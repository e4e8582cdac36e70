"""A version that a proxy refused goes to nobody else: the one that was accepted before stays."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from model.identity import Identity
from model.world import Accepted, ExitState, Pool, Rejection, ResourceKey, Role, World, put
from xds.server.publisher import Publisher
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import advance, build
from xds.translate import names
from xds.translate.group import GatewayGroup, ResourceId

SOMEBODY = UUID(int=99)


class Fleet:
    """The gateways of a fleet, as they are told what to hold."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.scope = GatewayGroup(next(iter(world.fleets)))
        self.snapshot = build(self.scope, world)
        self.differing: frozenset[ResourceId] = frozenset()

    def change(self, *entities) -> None:
        changes = [put(entity) for entity in entities]
        newer = self.world.changed(self.world.revision + 1, changes)
        self.snapshot, self.differing = advance(self.snapshot, self.world, newer, changes)
        self.world = newer

    def declare(self, **fields) -> None:
        """Change the one pool, and with it the routes that name it."""
        self.change(replace(self.pool, **fields))

    @property
    def pool(self) -> Pool:
        (pool,) = self.world.pools.values()
        return pool

    @property
    def routes(self) -> Resource | None:
        return self.snapshot.resources.get(names.ROUTE, {}).get(names.GATEWAY_ROUTES)

    @property
    def key(self) -> ResourceKey:
        return ResourceKey(self.scope.key, names.ROUTE, names.GATEWAY_ROUTES)

    def accept(self, resource: Resource) -> Accepted:
        return Accepted(self.key, resource.version, resource.body)

    def reject(self, resource: Resource) -> Rejection:
        return Rejection(self.key, resource.version, SOMEBODY, "no")


@pytest.fixture
def fleet(make_world) -> Fleet:
    return Fleet(make_world(1))


def test_a_rejected_version_gives_way_to_the_accepted_bytes(fleet):
    good = fleet.routes
    fleet.declare(name="bad")
    bad = fleet.routes
    assert bad.version != good.version
    fleet.change(fleet.reject(bad), fleet.accept(good))
    assert (fleet.routes.version, fleet.routes.body) == (good.version, good.body)
    assert fleet.differing == {ResourceId(names.ROUTE, names.GATEWAY_ROUTES)}


def test_without_an_accepted_version_a_rejected_one_is_left_out(fleet):
    others = {type_url: {*resources} for type_url, resources in fleet.snapshot.resources.items()}
    fleet.change(fleet.reject(fleet.routes))
    assert fleet.routes is None
    left = {type_url: {*resources} for type_url, resources in fleet.snapshot.resources.items() if resources}
    del others[names.ROUTE]
    assert left == others


def test_what_was_left_out_is_left_out_of_a_snapshot_from_scratch_too(fleet):
    fleet.change(fleet.reject(fleet.routes))
    assert names.ROUTE not in build(fleet.scope, fleet.world).resources


def test_mending_what_was_declared_publishes_again(fleet):
    good = fleet.routes
    fleet.declare(name="bad")
    fleet.change(fleet.reject(fleet.routes), fleet.accept(good))
    fleet.declare(name="mended")
    assert fleet.routes.version != good.version
    assert b"mended" in fleet.routes.body


def test_going_back_to_a_rejected_version_is_still_held_back(fleet):
    good = fleet.routes
    fleet.declare(name="bad")
    bad = fleet.routes
    fleet.change(fleet.reject(bad), fleet.accept(good))
    fleet.declare(name="mended")
    fleet.change(fleet.accept(fleet.routes))
    mended = fleet.routes
    fleet.declare(name="bad")
    assert fleet.routes.version == mended.version
    assert fleet.differing == frozenset()


def test_a_later_acceptance_changes_what_a_rejected_version_gives_way_to(fleet):
    """Else a replica that started later would publish other bytes than one that was there all the time."""
    good = fleet.routes
    fleet.declare(name="bad")
    fleet.change(fleet.reject(fleet.routes), fleet.accept(good))
    later = Accepted(fleet.key, "later", b"accepted late, on another replica")
    fleet.change(later)
    assert fleet.routes.body == later.body
    assert build(fleet.scope, fleet.world).resources[names.ROUTE][names.GATEWAY_ROUTES].body == later.body


def test_a_rejection_by_one_fleet_holds_nothing_back_from_another(fleet):
    other = ResourceKey("gateway/elsewhere", names.ROUTE, names.GATEWAY_ROUTES)
    before = fleet.routes
    fleet.change(Rejection(other, before.version, SOMEBODY, "no"))
    assert fleet.routes is before
    assert fleet.differing == frozenset()


def test_a_rejection_holds_back_nothing_but_its_resource(fleet):
    clusters = {**fleet.snapshot.resources[names.CLUSTER]}
    fleet.change(fleet.reject(fleet.routes))
    assert fleet.snapshot.resources[names.CLUSTER] == clusters


def test_endpoints_go_on_while_routes_are_held_back(fleet):
    fleet.change(fleet.reject(fleet.routes))
    (exit_,) = fleet.world.exits.values()
    fleet.change(replace(exit_, state=ExitState.LOST))
    assert {each.type_url for each in fleet.differing} == {names.ENDPOINT}
    assert fleet.routes is None


def test_every_stream_of_the_group_is_told_of_a_rejection(fleet):
    publisher = Publisher()
    publisher.start(fleet.world)
    gateway = next(proxy for proxy in fleet.world.proxies.values() if proxy.role is Role.GATEWAY)
    identity = Identity(gateway.fleet_id, gateway.role, gateway.id)
    boxes = [publisher.open(identity) for _ in range(2)]
    rejection = fleet.reject(fleet.routes)
    fleet.change(rejection)
    publisher.publish(fleet.world, [put(rejection)])
    for box in boxes:
        assert box.take()[1] == {names.ROUTE: {names.GATEWAY_ROUTES}}
    late = publisher.open(identity)
    assert late.view.get(names.ROUTE, names.GATEWAY_ROUTES) is None
