"""Rollouts: change-sets, canaries, guard rails, and the fallback to accepted versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import ClassVar
from uuid import UUID, uuid5

import pytest

from model.entities import Accepted, Approval, Pool, Proxy, Rejection, ResourceKey, Role, RolloutOverride
from model.exit_states import ExitState
from model.identity import Identity
from model.world import Change, Kind, World, key_of, put
from xds.server.publisher import Publisher
from xds.snapshot import rollout as rollout_module
from xds.snapshot import snapshot as snapshot_module
from xds.snapshot.order import ROLLED_OUT
from xds.snapshot.rollout import Audience, ChangeSet, Rollout, advance, build, compare
from xds.snapshot.snapshot import Snapshot
from xds.translate import names
from xds.translate.affected import AffectedResources, affected
from xds.translate.resource_ids import ADMISSION_FILTER, USERS, ResourceId
from xds.translate.scopes import ExitOverlay, GatewayEndpoints, GatewayGroup, Scope

FLEET = UUID(int=1)
SOMEBODY = UUID(int=99)
ROUTES = ResourceId(names.ROUTE, names.GATEWAY_ROUTES)
CLIENTS = ResourceId(names.LISTENER, names.GATEWAY_LISTENER)
FILTER = ResourceId(names.EXTENSION, "filter")


def cluster(number: int) -> ResourceId:
    return ResourceId(names.CLUSTER, f"{names.POOL_PREFIX}{UUID(int=number)}")


def endpoints(number: int) -> ResourceId:
    return ResourceId(names.ENDPOINT, cluster(number).name)


ONE, TWO, THREE, FOUR = map(cluster, range(1, 5))
TO_ONE, TO_TWO, TO_BOTH = ONE.name, TWO.name, f"{ONE.name} {TWO.name}"


@dataclass(frozen=True)
class Written:
    """A scope with given resources: each pool of its World stands for one, and the country is the body."""

    shared: bool = True
    key: ClassVar[str] = "gateway/written"
    types: ClassVar[AbstractSet[str]] = ROLLED_OUT | {names.ENDPOINT}

    def fleet(self, _: World) -> UUID:
        return FLEET

    def size(self, world: World) -> int:
        """A group of as many proxies as the World has."""
        return len(world.proxies)

    def resources(self, world: World) -> set[ResourceId]:
        return {_written(pool) for pool in world.pools.values()}

    def translate(self, world: World, resource: ResourceId) -> bytes | None:
        pool = world.pools.get(_pool_id(resource))
        return pool and pool.country.encode()

    def affected(self, changes: Iterable[Change], old: World, new: World) -> AffectedResources:
        found = affected(changes, old, new).get(self.key, AffectedResources())
        keys = {change.key for change in changes if change.kind is Kind.POOL}
        found.declared |= {_written(world.pools[key]) for world in (old, new) for key in keys & world.pools.keys()}
        return found


def _written(pool: Pool) -> ResourceId:
    return ResourceId(*pool.name.split(" "))


def _pool_id(resource: ResourceId) -> UUID:
    return uuid5(FLEET, f"{resource.type_url} {resource.name}")


class Group:
    """Proxies that share a scope. Each change advances its rollout, and compares it with one built from scratch."""

    def __init__(self, scope: Scope, world: World, *, canaries: bool = True) -> None:
        self.scope, self.world, self.canaries = scope, world, canaries
        self.rollout: Rollout = build(scope, world, canaries=canaries)

    def change(self, *changes: Change) -> None:
        newer = self.world.changed(self.world.revision + 1, changes)
        before = self.rollout
        if isinstance(self.scope, Written):
            resources = self.scope.affected(changes, self.world, newer)
        else:
            resources = affected(changes, self.world, newer).get(self.scope.key, AffectedResources())
        self.rollout, differences = advance(before, newer, resources, canaries=self.canaries)
        scratch = build(self.scope, newer, canaries=self.canaries)
        assert compare(self.rollout, scratch) == compare(scratch, scratch)
        assert differences == compare(before, scratch)
        self.world = newer

    def declare(self, wanted: Mapping[ResourceId, str | None]) -> None:
        """Set the wanted bodies of resources; None removes one."""
        self.change(
            *(
                Change(Kind.POOL, _pool_id(each), None)
                if body is None
                else put(Pool(_pool_id(each), FLEET, f"{each.type_url} {each.name}", body))
                for each, body in wanted.items()
            )
        )

    def release(self, *, audience: Audience | None = None) -> None:
        """Accept the change-sets that somebody was given."""
        self.change(
            *(
                change
                for each in self.rollout.change_sets
                if each.audience is not Audience.NOBODY and audience in (None, each.audience)
                for change in self._accepted(each)
            )
        )

    def reject(self, each: ResourceId, words: str = "no", by: UUID = SOMEBODY) -> None:
        """Reject the wanted version of a resource."""
        self.change(put(Rejection(self._key(each), self.rollout.wanted.get(each).version, by, words)))

    def approve(self) -> None:
        self.change(put(Approval(FLEET)))

    def _accepted(self, change_set: ChangeSet) -> Iterable[Change]:
        for each, resource in change_set.wanted.items():
            if resource is None:
                yield Change(Kind.ACCEPTED, self._key(each), None)
            else:
                yield put(Accepted(self._key(each), resource.version, resource.body))

    def _key(self, each: ResourceId) -> ResourceKey:
        return ResourceKey(self.scope.key, each.type_url, each.name)

    @property
    def sets(self) -> list[tuple[set[ResourceId], Audience]]:
        return [({*each.wanted}, each.audience) for each in self.rollout.change_sets]

    @property
    def reasons(self) -> list[str]:
        return [each.reason for each in self.rollout.change_sets]

    @property
    def stable(self) -> dict[ResourceId, str]:
        return _bodies(self.rollout.stable)

    @property
    def canary(self) -> dict[ResourceId, str]:
        return _bodies(self.rollout.canary)


def _bodies(snapshot: Snapshot) -> dict[ResourceId, str]:
    return {
        ResourceId(type_url, name): resource.body.decode()
        for type_url, resources in snapshot.resources.items()
        for name, resource in resources.items()
    }


@pytest.fixture
def written(monkeypatch):
    """`written({…})` makes a group with these stable resources; without any, one that has accepted nothing yet."""
    encode = snapshot_module.encode
    monkeypatch.setattr(snapshot_module, "encode", lambda given: given if isinstance(given, bytes) else encode(given))

    def make(
        stable: Mapping[ResourceId, str] | None = None,
        *,
        shared: bool = True,
        canaries: bool = True,
    ) -> Group:
        made = Group(Written(shared), World(1), canaries=canaries)
        if stable:
            made.declare(stable)
            made.release()
            assert made.sets == []
        return made

    return make


@pytest.fixture
def gateways(make_world) -> Group:
    """The gateways of a fleet with three pools, whose resources are stable."""
    world = make_world(3)
    made = Group(GatewayGroup(next(iter(world.fleets))), world)
    made.release()
    assert made.sets == []
    return made


# -- who is given what -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("urgent", [ADMISSION_FILTER, USERS[0]])
def test_urgent_resource_is_tried_and_withheld_by_nobody(urgent, written):
    """A gateway or user that was removed must be refused at once, whatever two proxies say about the list without it."""
    group = written()
    group.declare({urgent: "v1"})
    group.declare({urgent: "v2"})
    group.reject(urgent)
    group.reject(urgent, by=UUID(int=98))
    assert group.sets == []
    assert group.stable == group.canary == {urgent: "v2"}


def test_new_group_is_given_everything_at_once(written):
    fresh = written()
    wanted = {ONE: "a", ROUTES: TO_ONE, FILTER: "x"}
    fresh.declare(wanted)
    assert fresh.sets == [({*wanted}, Audience.EVERYBODY)]
    assert fresh.stable == fresh.canary == wanted


def test_accepted_and_wanted_resources_are_stable(written):
    stable = written({ONE: "a", ROUTES: TO_ONE})
    assert stable.rollout.stable is stable.rollout.canary is stable.rollout.wanted


def test_change_goes_to_canaries_while_others_keep_stable_resources(written):
    stable = written({ONE: "a", TWO: "b"})
    stable.declare({ONE: "new"})
    assert stable.sets == [({ONE}, Audience.CANARIES)]
    assert stable.canary == {ONE: "new", TWO: "b"}
    assert stable.stable == {ONE: "a", TWO: "b"}


def test_change_that_canaries_accepted_goes_to_everybody(written):
    stable = written({ONE: "a"})
    stable.declare({ONE: "new"})
    stable.release()
    assert stable.sets == []
    assert stable.stable == {ONE: "new"}


def test_change_without_canaries_goes_to_everybody(written):
    stable = written({ONE: "a"}, canaries=False)
    stable.declare({ONE: "new"})
    assert stable.sets == [({ONE}, Audience.EVERYBODY)]
    assert stable.stable == {ONE: "new"}


def test_rejected_change_without_canaries_goes_to_nobody(written):
    stable = written({ONE: "a"}, canaries=False)
    stable.declare({ONE: "new"})
    stable.reject(ONE)
    assert stable.stable == stable.canary == {ONE: "a"}


def test_overlay_changes_need_no_canary(written, make_world):
    own = written({ONE: "a"}, shared=False)
    own.declare({ONE: "new"})
    assert own.sets == [({ONE}, Audience.EVERYBODY)]
    world = make_world(1)
    (exit_,) = world.exits.values()
    overlay = Group(ExitOverlay(exit_.id), world)
    overlay.release()
    overlay.change(put(replace(exit_, port=9000)))
    assert [audience for _, audience in overlay.sets] == [Audience.EVERYBODY]


def test_overlay_may_refer_to_its_group_and_lose_all_resources(written):
    own = written({ONE: "a", TWO: "b", THREE: "c"}, shared=False)
    own.declare({ONE: None, TWO: None, THREE: None, ROUTES: TO_TWO})
    assert {audience for _, audience in own.sets} == {Audience.EVERYBODY}
    assert own.stable == {ROUTES: TO_TWO}


def test_endpoints_are_neither_tried_nor_withheld(written, make_world):
    some = written({ONE: "a", endpoints(1): "x", endpoints(2): "y", endpoints(3): "z"})
    some.declare({endpoints(1): "new", endpoints(2): None, endpoints(3): None})
    assert some.sets == []
    assert some.stable == {ONE: "a", endpoints(1): "new"}
    world = make_world(1)
    (exit_,) = world.exits.values()
    of_fleet = Group(GatewayEndpoints(next(iter(world.fleets)), None), world)
    of_fleet.change(put(replace(exit_, state=ExitState.LOST)))
    assert of_fleet.sets == []
    assert of_fleet.rollout.stable is of_fleet.rollout.wanted


def test_endpoints_change_while_their_cluster_is_withheld(written):
    some = written({ONE: "a", endpoints(1): "x"})
    some.declare({ONE: "bad"})
    some.reject(ONE)
    some.declare({endpoints(1): "new"})
    assert some.stable == {ONE: "a", endpoints(1): "new"}


# -- closed change-sets ------------------------------------------------------------------------------------------------


def test_new_cluster_and_its_routes_are_one_set_apart_from_others(written):
    some = written({ONE: "a", ROUTES: TO_ONE, THREE: "c", FILTER: "x"})
    some.declare({TWO: "b", ROUTES: TO_BOTH, THREE: "new", FILTER: "new"})
    assert sorted(some.sets, key=lambda each: len(each[0])) == [
        ({THREE}, Audience.CANARIES),
        ({FILTER}, Audience.CANARIES),
        ({TWO, ROUTES}, Audience.CANARIES),
    ]


def test_removed_cluster_is_one_set_with_its_former_routes(written):
    some = written({ONE: "a", TWO: "b", ROUTES: TO_BOTH})
    some.declare({TWO: None, ROUTES: TO_ONE})
    assert some.sets == [({TWO, ROUTES}, Audience.CANARIES)]
    assert some.stable == {ONE: "a", TWO: "b", ROUTES: TO_BOTH}
    assert some.canary == {ONE: "a", ROUTES: TO_ONE}


def test_new_listener_is_one_set_with_its_routes(written):
    some = written({ONE: "a"})
    some.declare({CLIENTS: "8080", ROUTES: TO_ONE})
    assert [{*each} for each, _ in some.sets] == [{CLIENTS, ROUTES}]


def test_changed_resource_is_no_set_with_those_that_refer_to_it(written):
    """A rejected listener keeps no pool from the routes."""
    some = written({ONE: "a", ROUTES: TO_ONE, CLIENTS: "8080"})
    some.declare({CLIENTS: "8081", ONE: "other", TWO: "b", ROUTES: TO_BOTH})
    assert sorted(({*each} for each, _ in some.sets), key=len) == [{ONE}, {CLIENTS}, {ROUTES, TWO}]


def test_chain_of_references_is_one_set(written):
    some = written({FILTER: "x"})
    some.declare({ONE: "a", FILTER: TO_ONE, TWO: f"like {TO_ONE}", THREE: "apart"})
    assert sorted((len(each) for each, _ in some.sets), reverse=True) == [3, 1]


def test_resource_without_listener_is_unused(written):
    groups = ResourceId(names.EXTENSION, names.GROUPS_FILTER)
    each = written({ROUTES: "", groups: ""})
    assert [each.rollout.is_used(it) for it in (ROUTES, groups, ONE)] == [False, False, True]
    each.declare({CLIENTS: ""})  # tried
    assert [each.rollout.is_used(it) for it in (ROUTES, groups)] == [True, False]
    each.declare({CLIENTS: names.GROUPS_FILTER})
    each.reject(CLIENTS)  # routes stay used, so that canaries try them before the listener is fixed
    assert [each.rollout.is_used(it) for it in (ROUTES, groups)] == [True, True]
    each.declare({CLIENTS: None})
    assert not each.rollout.is_used(ROUTES)


def test_new_pool_is_one_set_of_its_cluster_and_the_routes(gateways):
    pool = replace(next(iter(gateways.world.pools.values())), id=FLEET, country="zz", name="new")
    gateways.change(put(pool))
    assert gateways.sets == [({ResourceId(names.CLUSTER, names.pool_cluster(pool)), ROUTES}, Audience.CANARIES)]


def test_change_set_has_equal_keys_on_two_replicas(written):
    one, other = written({ONE: "a", TWO: "b"}), written({ONE: "a"})
    other.declare({TWO: "other"})
    other.release()
    for some in (one, other):
        some.declare({ONE: "new", TWO: "b"})
    keys = [{each.key for each in some.rollout.change_sets if ONE in each.wanted} for some in (one, other)]
    assert keys[0] == keys[1]
    one.declare({ONE: "newer"})
    assert {each.key for each in one.rollout.change_sets}.isdisjoint(keys[0])


def test_removing_and_adding_sets_have_different_keys(written):
    some = written({ONE: "a", TWO: "b", THREE: "c"})
    some.declare({ONE: None})
    (gone,) = some.rollout.change_sets
    some.declare({ONE: ""})
    (emptied,) = some.rollout.change_sets
    assert gone.key != emptied.key


# -- rejection ---------------------------------------------------------------------------------------------------------


def test_rejected_set_goes_to_nobody_and_accepted_resources_stay(written):
    some = written({ONE: "a", ROUTES: TO_ONE, FILTER: "x"})
    some.declare({TWO: "bad", ROUTES: TO_BOTH, FILTER: "new"})
    some.reject(TWO, "cluster: no thanks")
    verdicts = {frozenset(each): audience for each, audience in some.sets}
    assert verdicts == {frozenset({TWO, ROUTES}): Audience.NOBODY, frozenset({FILTER}): Audience.CANARIES}
    assert some.stable == {ONE: "a", ROUTES: TO_ONE, FILTER: "x"}
    assert some.canary == {ONE: "a", ROUTES: TO_ONE, FILTER: "new"}


def test_rejected_set_quotes_the_proxy(written):
    some = written({ONE: "a"})
    some.declare({ONE: "bad"})
    some.reject(ONE, "Proto constraint validation failed")
    assert some.reasons == [f"{ONE.name} was rejected: Proto constraint validation failed"]


def test_fixed_resource_clears_its_rejection(written):
    some = written({ONE: "a"})
    some.declare({ONE: "bad"})
    some.reject(ONE)
    some.declare({ONE: "fixed"})
    assert some.sets == [({ONE}, Audience.CANARIES)]
    some.release()
    assert some.stable == {ONE: "fixed"}
    assert some.sets == []


def test_reverted_resource_clears_its_rejection(written):
    some = written({ONE: "a", ROUTES: TO_ONE})
    some.declare({TWO: "bad", ROUTES: TO_BOTH})
    some.reject(TWO)
    some.declare({TWO: None, ROUTES: TO_ONE})
    assert some.sets == []
    assert some.stable == some.canary == {ONE: "a", ROUTES: TO_ONE}


def test_rejected_version_that_comes_back_is_withheld_again(written):
    some = written({ONE: "a"})
    some.declare({ONE: "bad"})
    some.reject(ONE)
    some.declare({ONE: "fixed"})
    some.release()
    some.declare({ONE: "bad"})
    assert some.sets == [({ONE}, Audience.NOBODY)]
    assert some.stable == some.canary == {ONE: "fixed"}


def test_changed_resource_stays_withheld_with_a_rejected_one(written):
    """They change together or not at all."""
    some = written({ONE: "a", ROUTES: TO_ONE})
    some.declare({TWO: "bad", ROUTES: TO_BOTH})
    some.reject(TWO)
    some.declare({ROUTES: f"{TO_BOTH} otherwise"})
    assert some.sets == [({TWO, ROUTES}, Audience.NOBODY)]


def test_new_group_omits_rejected_change_set(written):
    fresh = written()
    fresh.declare({ONE: "a", ROUTES: TO_ONE, CLIENTS: "8080", TWO: "b", FILTER: "x"})
    fresh.reject(ROUTES)
    assert fresh.stable == fresh.canary == {TWO: "b", FILTER: "x"}
    assert sorted(fresh.sets, key=lambda each: each[1]) == [
        ({TWO, FILTER}, Audience.EVERYBODY),
        ({ONE, ROUTES, CLIENTS}, Audience.NOBODY),
    ]


def proxies(count: int) -> list[Proxy]:
    return [Proxy(UUID(int=number), FLEET, f"gw-{number}", Role.GATEWAY) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("size", "rejected_by", "audience"),
    [
        (1, [1], Audience.NOBODY),
        (2, [1], Audience.CANARIES),
        (2, [1, 2], Audience.NOBODY),
        (3, [1], Audience.CANARIES),
        (3, [1, 1], Audience.CANARIES),
        (3, [1, 2], Audience.NOBODY),
        (3, [0], Audience.NOBODY),
        (3, [0, 1], Audience.NOBODY),
    ],
)
def test_second_proxy_or_validator_withholds_change_set(written, size, rejected_by, audience):
    """Proxy 0 stands for the control plane's own validation."""
    some = written({ONE: "a", ROUTES: TO_ONE})
    some.change(*map(put, proxies(size)))
    some.declare({TWO: "bad", ROUTES: TO_BOTH})
    for number, each in zip(rejected_by, (TWO, ROUTES), strict=False):
        some.reject(each, by=UUID(int=number))
    assert some.sets == [({TWO, ROUTES}, audience)]
    (change_set,) = some.rollout.change_sets
    assert change_set.rejected_by == {UUID(int=number) for number in rejected_by}
    assert some.stable == {ONE: "a", ROUTES: TO_ONE}
    assert (some.canary == some.stable) == (audience is Audience.NOBODY)


def test_lone_rejection_names_its_proxy(written):
    some = written({ONE: "a"})
    some.change(*map(put, proxies(2)))
    some.declare({ONE: "new"})
    some.reject(ONE, "no thanks", by=UUID(int=2))
    assert some.reasons == [f"gw-2 alone rejected {ONE.name}: no thanks"]


def test_lone_rejection_withholds_nothing_from_new_group(written):
    fresh = written()
    fresh.change(*map(put, proxies(2)))
    fresh.declare({ONE: "a", ROUTES: TO_ONE, TWO: "b"})
    fresh.reject(ROUTES, by=UUID(int=1))
    assert fresh.sets == [({ONE, ROUTES, TWO}, Audience.EVERYBODY)]
    assert fresh.reasons == [f"gw-1 alone rejected {ROUTES.name}: no"]
    assert fresh.rollout.change_sets[0].rejected_by == {UUID(int=1)}


def test_forgotten_rejection_withholds_nothing(written):
    some = written({ONE: "a"})
    some.declare({ONE: "new"})
    some.reject(ONE)
    (rejection,) = some.world.rejections.values()
    assert some.sets == [({ONE}, Audience.NOBODY)]
    some.change(Change(Kind.REJECTION, key_of(rejection), None))
    assert some.sets == [({ONE}, Audience.CANARIES)]


def test_group_that_gains_proxy_tries_rejected_set_again(gateways):
    fleet_id = gateways.scope.fleet_id
    one, two = [replace(each, fleet_id=fleet_id) for each in proxies(2)]
    gateways.change(*(Change(Kind.PROXY, each, None) for each in gateways.world.proxies))
    gateways.change(put(one))
    gateways.change(put(replace(next(iter(gateways.world.pools.values())), name="bad")))
    gateways.reject(ROUTES, by=one.id)
    assert gateways.sets == [({ROUTES}, Audience.NOBODY)]
    gateways.change(put(two))
    assert gateways.sets == [({ROUTES}, Audience.CANARIES)]
    gateways.change(Change(Kind.PROXY, two.id, None))
    assert gateways.sets == [({ROUTES}, Audience.NOBODY)]


def test_override_gives_one_change_set_to_everybody(written):
    some = written({ONE: "a", TWO: "b"})
    some.declare({ONE: "bad", TWO: "worse"})
    some.reject(ONE)
    some.reject(TWO)
    (change_set,) = [each for each in some.rollout.change_sets if ONE in each.wanted]
    order = RolloutOverride(UUID(int=5), FLEET, some.scope.key, change_set.key)
    some.change(put(order))
    assert some.sets == [({ONE}, Audience.EVERYBODY), ({TWO}, Audience.NOBODY)]
    assert [each.overrides for each in some.rollout.change_sets] == [{order.id}, frozenset()]
    some.change(Change(Kind.OVERRIDE, order.id, None))
    assert [audience for _, audience in some.sets] == [Audience.NOBODY, Audience.NOBODY]


@pytest.mark.parametrize("shrinks", [False, True])
def test_override_releases_no_dangling_reference_and_no_shrink(written, shrinks):
    some = written({ONE: "a", TWO: "b", THREE: "c", ROUTES: TO_ONE})
    some.declare({TWO: None, THREE: None} if shrinks else {ROUTES: f"{TO_ONE} {FOUR.name}"})
    for number, each in enumerate(some.rollout.change_sets):
        some.change(put(RolloutOverride(UUID(int=number), FLEET, some.scope.key, each.key)))
    assert {audience for _, audience in some.sets} == {Audience.NOBODY}


def test_rejected_version_falls_back_to_latest_accepted_one(written):
    """Otherwise a replica that starts later would publish other bytes than the others."""
    some = written({ONE: "a"})
    some.declare({ONE: "bad"})
    some.reject(ONE)
    some.change(put(Accepted(ResourceKey(some.scope.key, *_parts(ONE)), "later", b"elsewhere")))
    assert some.stable == {ONE: "elsewhere"}


def _parts(each: ResourceId) -> tuple[str, str]:
    return each.type_url, each.name


def test_rejection_in_one_group_does_not_affect_another(written):
    some = written({ONE: "a"})
    some.declare({ONE: "new"})
    version = some.rollout.wanted.get(ONE).version
    some.change(put(Rejection(ResourceKey("gateway/elsewhere", *_parts(ONE)), version, SOMEBODY, "no")))
    assert some.sets == [({ONE}, Audience.CANARIES)]


def test_rejection_reaches_all_streams_and_late_ones_never_see_it(gateways):
    publisher = Publisher()
    publisher.start(gateways.world)
    fleet_id = gateways.scope.fleet_id
    others = [Proxy(UUID(int=number), fleet_id, f"gw-{number}", Role.GATEWAY) for number in (1, 2)]

    def publish(*changes: Change) -> None:
        gateways.change(*changes)
        publisher.publish(gateways.world, changes)

    publish(*map(put, others))
    boxes = [publisher.open(Identity(fleet_id, Role.GATEWAY, each.id)) for each in others]
    publisher.set_canaries(gateways.scope.key, frozenset({others[0].id}))
    good = gateways.rollout.stable.get(ROUTES)
    publish(put(replace(next(iter(gateways.world.pools.values())), name="bad")))
    canary, other = boxes
    assert canary.take()[1] == {names.ROUTE: {names.GATEWAY_ROUTES}}
    assert other.take()[1] == {}
    rejection = Rejection(gateways._key(ROUTES), gateways.rollout.wanted.get(ROUTES).version, others[0].id, "no")
    publish(put(rejection), put(replace(rejection, proxy_id=others[1].id)))
    assert canary.take()[1] == {names.ROUTE: {names.GATEWAY_ROUTES}}
    assert other.take()[1] == {}
    late = publisher.open(Identity(fleet_id, Role.GATEWAY, others[1].id))
    for box in (canary, other, late):
        assert box.view.get(*_parts(ROUTES)).version == good.version


# -- guard rails -------------------------------------------------------------------------------------------------------


def test_dangling_reference_is_withheld_with_its_reason(written):
    some = written({ONE: "a", ROUTES: TO_ONE})
    some.declare({ROUTES: TO_BOTH})
    assert some.sets == [({ROUTES}, Audience.NOBODY)]
    assert some.reasons == [f"{ROUTES.name} names {TWO.name}, which does not exist"]
    assert some.stable == some.canary == {ONE: "a", ROUTES: TO_ONE}
    some.declare({TWO: "b"})
    assert some.sets == [({TWO, ROUTES}, Audience.CANARIES)]


def test_dangling_reason_is_equal_on_all_replicas(written):
    some = written({ONE: "a"})
    some.declare({ROUTES: " ".join(cluster(number).name for number in range(50, 10, -1))})
    assert some.reasons == [f"{ROUTES.name} names {cluster(11).name}, which does not exist"]


def test_removal_that_unchanged_routes_refer_to_is_withheld(written):
    some = written({ONE: "a", TWO: "b", THREE: "c", ROUTES: TO_BOTH})
    some.declare({TWO: None})
    assert [audience for _, audience in some.sets] == [Audience.NOBODY]
    assert f"{ROUTES.name} names {TWO.name}" in some.reasons[0]
    assert some.stable == some.canary == {ONE: "a", TWO: "b", THREE: "c", ROUTES: TO_BOTH}
    some.declare({ROUTES: TO_ONE})
    assert some.sets == [({TWO, ROUTES}, Audience.CANARIES)]


def test_new_group_withholds_dangling_reference(written):
    fresh = written()
    fresh.declare({ROUTES: TO_ONE, TWO: "b"})
    assert fresh.stable == {TWO: "b"}
    assert (({ROUTES}, Audience.NOBODY)) in fresh.sets


def test_half_of_a_type_may_be_removed(written):
    some = written({ONE: "a", TWO: "b", THREE: "c", FOUR: "d"})
    some.declare({ONE: None, TWO: None})
    assert {audience for _, audience in some.sets} == {Audience.CANARIES}
    assert some.canary == {THREE: "c", FOUR: "d"}


def test_removal_of_more_than_half_is_withheld_with_counts(written):
    some = written({ONE: "a", TWO: "b", THREE: "c", FOUR: "d"})
    some.declare({ONE: None, TWO: None, THREE: None})
    assert {audience for _, audience in some.sets} == {Audience.NOBODY}
    assert {*some.reasons} == {"it would leave 1 of 4 Clusters: approve it, or put them back"}
    assert some.stable == some.canary == {ONE: "a", TWO: "b", THREE: "c", FOUR: "d"}


@pytest.mark.parametrize("count", [1, 2])
def test_removal_of_last_resource_of_a_type_is_withheld(written, count):
    all_of_them = {cluster(number): "a" for number in range(count)}
    some = written({**all_of_them, FILTER: "x"})
    some.declare(dict.fromkeys(all_of_them))
    assert {audience for _, audience in some.sets} == {Audience.NOBODY}
    assert some.stable == {**all_of_them, FILTER: "x"}


def test_shrink_withholds_no_other_set(written):
    some = written({ONE: "a", TWO: "b", THREE: "c", FILTER: "x"})
    some.declare({ONE: None, TWO: None, THREE: "new", FILTER: "new"})
    assert some.canary == {ONE: "a", TWO: "b", THREE: "new", FILTER: "new"}


def test_replaced_resources_are_no_shrink(written):
    some = written({ONE: "a", TWO: "b"})
    some.declare({ONE: None, TWO: None, THREE: "c", FOUR: "d"})
    assert {audience for _, audience in some.sets} == {Audience.CANARIES}


def test_restored_resources_clear_a_shrink(written):
    some = written({ONE: "a", TWO: "b", THREE: "c"})
    some.declare({ONE: None, TWO: None})
    some.declare({ONE: "a"})
    assert some.sets == [({TWO}, Audience.CANARIES)]


def test_approved_shrink_goes_to_canaries_and_is_marked(written):
    some = written({ONE: "a", TWO: "b", THREE: "c", FILTER: "x"})
    some.declare({ONE: None, TWO: None, FILTER: "new"})
    some.approve()
    assert {audience for _, audience in some.sets} == {Audience.CANARIES}
    assert some.canary == {THREE: "c", FILTER: "new"}
    shrinks = {frozenset(each.wanted): each.shrinks for each in some.rollout.change_sets}
    assert shrinks == {frozenset({ONE}): True, frozenset({TWO}): True, frozenset({FILTER}): False}


def test_approval_releases_no_rejected_set(written):
    some = written({ONE: "a", TWO: "b", THREE: "c", ROUTES: TO_BOTH})
    some.declare({ONE: None, TWO: None, ROUTES: THREE.name})
    some.approve()
    some.reject(ROUTES)
    assert [audience for _, audience in some.sets] == [Audience.NOBODY]
    assert some.stable == {ONE: "a", TWO: "b", THREE: "c", ROUTES: TO_BOTH}


def test_approval_of_another_fleet_releases_nothing(written):
    some = written({ONE: "a"})
    some.declare({ONE: None})
    some.change(put(Approval(SOMEBODY)))
    assert some.sets == [({ONE}, Audience.NOBODY)]


def test_removal_of_too_many_pools_waits_for_approval(gateways):
    pools = [*gateways.world.pools.values()]
    exits = [*gateways.world.exits.values()]
    gateways.change(*(Change(Kind.EXIT, each.id, None) for each in exits))
    gateways.change(*(Change(Kind.POOL, each.id, None) for each in pools[:2]))
    assert [audience for _, audience in gateways.sets] == [Audience.NOBODY]
    assert "1 of 3 Clusters" in gateways.reasons[0]
    gateways.change(put(Approval(gateways.scope.fleet_id)))
    assert [audience for _, audience in gateways.sets] == [Audience.CANARIES]


# -- cost --------------------------------------------------------------------------------------------------------------


class Walked(frozenset):
    """Keys that count how often they are iterated."""

    walks = 0

    def __iter__(self):
        type(self).walks += 1
        return super().__iter__()


@pytest.mark.parametrize("size", [10, 500])
def test_advance_examines_pending_resources_only(written, monkeypatch, size):
    some = written({cluster(number): "a" for number in range(size)})
    looked, translated, real = [], [], rollout_module.references
    translate = Written.translate
    monkeypatch.setattr(rollout_module, "references", lambda *given: looked.append(given[1]) or real(*given))
    monkeypatch.setattr(Written, "translate", lambda *given: translated.append(given[2]) or translate(*given))
    keys = Walked(some.world.accepted_of[some.scope.key])
    some.world = replace(some.world, accepted_of={some.scope.key: keys})
    monkeypatch.setattr(Walked, "walks", 0)
    changes = [put(replace(some.world.pools[_pool_id(ONE)], country="new"))]
    newer = some.world.changed(9, changes)
    planned, differences = advance(some.rollout, newer, some.scope.affected(changes, some.world, newer))
    assert translated == [ONE]
    assert {*looked} == {ONE.name}
    assert len(looked) <= 4
    assert Walked.walks == 0
    assert differences.canary == differences.wanted == {ONE}
    kept = planned.canary.resources[names.CLUSTER]
    assert all(kept[each] is some.rollout.stable.resources[names.CLUSTER][each] for each in kept.keys() - {ONE.name})


def test_acceptance_translates_nothing(written, monkeypatch):
    some = written({ONE: "a", TWO: "b"})
    some.declare({ONE: "new"})
    translated: list[ResourceId] = []
    monkeypatch.setattr(Written, "translate", lambda *given: translated.append(given[2]))
    changes = [*some._accepted(some.rollout.change_sets[0])]
    newer = some.world.changed(9, changes)
    released, differences = advance(some.rollout, newer, some.scope.affected(changes, some.world, newer))
    assert translated == []
    assert differences.stable == {ONE}
    assert differences.canary == differences.wanted == frozenset()
    assert released.stable is released.wanted


def test_snapshots_share_tables_while_nothing_is_pending(gateways):
    assert gateways.rollout.stable is gateways.rollout.canary is gateways.rollout.wanted
