"""What of a group's wanted resources goes to whom: closed change-sets, canaries, guard rails, the fall back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import ClassVar
from uuid import UUID, uuid5

import pytest

from model.entities import Accepted, Approval, Pool, Proxy, Rejection, ResourceKey, Role
from model.exit_states import ExitState
from model.identity import Identity
from model.world import Change, Kind, World, put
from xds.server.publisher import Publisher
from xds.snapshot import rollout as rollout_module
from xds.snapshot import snapshot as snapshot_module
from xds.snapshot.order import ROLLED_OUT
from xds.snapshot.rollout import Audience, ChangeSet, Rollout, advance, build, compare
from xds.snapshot.snapshot import Snapshot
from xds.translate import names, scopes
from xds.translate.scopes import ExitOverlay, GatewayEndpoints, GatewayGroup, ResourceId, Scope

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
    """A scope whose resources are as they are written down: each pool stands for one, its country is the body."""

    shared: bool = True
    key: ClassVar[str] = "gateway/written"
    types: ClassVar[AbstractSet[str]] = ROLLED_OUT | {names.ENDPOINT}

    def fleet(self, _: World) -> UUID:
        return FLEET

    def resources(self, world: World) -> set[ResourceId]:
        return {_written(pool) for pool in world.pools.values()}

    def translate(self, world: World, resource: ResourceId) -> bytes | None:
        pool = world.pools.get(_pool_id(resource))
        return pool and pool.country.encode()

    def touched(self, change: Change, old: World, new: World) -> Iterable[ResourceId]:
        if change.kind is Kind.POOL:
            return {_written(pool) for world in (old, new) if (pool := world.pools.get(change.key))}
        return scopes._of_rollout(self.key, change)


def _written(pool: Pool) -> ResourceId:
    return ResourceId(*pool.name.split(" "))


def _pool_id(resource: ResourceId) -> UUID:
    return uuid5(FLEET, f"{resource.type_url} {resource.name}")


class Group:
    """Some proxies that share a scope. Whatever happens is advanced, and compared with what is built from scratch."""

    def __init__(self, scope: Scope, world: World, *, canaries: bool = True) -> None:
        self.scope, self.world, self.canaries = scope, world, canaries
        self.rollout: Rollout = build(scope, world, canaries=canaries)

    def change(self, *changes: Change) -> None:
        newer = self.world.changed(self.world.revision + 1, changes)
        before = self.rollout
        self.rollout, differences = advance(before, self.world, newer, changes, canaries=self.canaries)
        scratch = build(self.scope, newer, canaries=self.canaries)
        assert compare(self.rollout, scratch) == compare(scratch, scratch)
        assert differences == compare(before, scratch)
        self.world = newer

    def declare(self, wanted: Mapping[ResourceId, str | None]) -> None:
        """Write these down, and what is None off."""
        self.change(
            *(
                Change(Kind.POOL, _pool_id(each), None)
                if body is None
                else put(Pool(_pool_id(each), FLEET, f"{each.type_url} {each.name}", body))
                for each, body in wanted.items()
            )
        )

    def release(self, *, verdict: Audience | None = None) -> None:
        """Whoever was given something accepted it."""
        self.change(
            *(
                change
                for each in self.rollout.change_sets
                if each.verdict is not Audience.NOBODY and verdict in (None, each.verdict)
                for change in self._accepted(each)
            )
        )

    def reject(self, each: ResourceId, words: str = "no") -> None:
        """A proxy refused what is wanted of a resource."""
        self.change(put(Rejection(self._key(each), self.rollout.wanted.get(each).version, SOMEBODY, words)))

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
        return [({*each.wanted}, each.verdict) for each in self.rollout.change_sets]

    @property
    def reasons(self) -> list[str]:
        return [each.reason for each in self.rollout.change_sets]

    @property
    def settled(self) -> dict[ResourceId, str]:
        return _bodies(self.rollout.settled)

    @property
    def trial(self) -> dict[ResourceId, str]:
        return _bodies(self.rollout.trial)


def _bodies(snapshot: Snapshot) -> dict[ResourceId, str]:
    return {
        ResourceId(type_url, name): resource.body.decode()
        for type_url, resources in snapshot.resources.items()
        for name, resource in resources.items()
    }


@pytest.fixture
def written(monkeypatch):
    """`written({…})`: a group that is settled at these resources; without any, one where nothing was accepted yet."""
    encode = snapshot_module.encode
    monkeypatch.setattr(snapshot_module, "encode", lambda given: given if isinstance(given, bytes) else encode(given))

    def make(settled: Mapping[ResourceId, str] | None = None, *, shared: bool = True, canaries: bool = True) -> Group:
        made = Group(Written(shared), World(1), canaries=canaries)
        if settled:
            made.declare(settled)
            made.release()
            assert made.sets == []
        return made

    return make


@pytest.fixture
def gateways(make_world) -> Group:
    """The gateways of a fleet with three pools, settled."""
    world = make_world(3)
    made = Group(GatewayGroup(next(iter(world.fleets))), world)
    made.release()
    assert made.sets == []
    return made


# -- who is given what -------------------------------------------------------------------------------------------------


def test_a_group_that_never_accepted_anything_is_given_everything_at_once(written):
    fresh = written()
    wanted = {ONE: "a", ROUTES: TO_ONE, FILTER: "x"}
    fresh.declare(wanted)
    assert fresh.sets == [({*wanted}, Audience.EVERYBODY)]
    assert fresh.settled == fresh.trial == wanted


def test_what_is_accepted_and_wanted_is_settled_and_nothing_is_tried(written):
    settled = written({ONE: "a", ROUTES: TO_ONE})
    assert settled.rollout.settled is settled.rollout.trial is settled.rollout.wanted


def test_a_change_is_given_to_canaries_while_the_others_keep_what_they_have(written):
    settled = written({ONE: "a", TWO: "b"})
    settled.declare({ONE: "new"})
    assert settled.sets == [({ONE}, Audience.CANARIES)]
    assert settled.trial == {ONE: "new", TWO: "b"}
    assert settled.settled == {ONE: "a", TWO: "b"}


def test_what_canaries_accepted_is_given_to_everybody(written):
    settled = written({ONE: "a"})
    settled.declare({ONE: "new"})
    settled.release()
    assert settled.sets == []
    assert settled.settled == {ONE: "new"}


def test_without_canaries_a_change_goes_to_everybody(written):
    settled = written({ONE: "a"}, canaries=False)
    settled.declare({ONE: "new"})
    assert settled.sets == [({ONE}, Audience.EVERYBODY)]
    assert settled.settled == {ONE: "new"}


def test_without_canaries_a_rejected_change_still_goes_to_nobody(written):
    settled = written({ONE: "a"}, canaries=False)
    settled.declare({ONE: "new"})
    settled.reject(ONE)
    assert settled.settled == settled.trial == {ONE: "a"}


def test_a_proxys_own_resources_are_never_tried_by_others(written, make_world):
    own = written({ONE: "a"}, shared=False)
    own.declare({ONE: "new"})
    assert own.sets == [({ONE}, Audience.EVERYBODY)]
    world = make_world(1)
    (exit_,) = world.exits.values()
    overlay = Group(ExitOverlay(exit_.id), world)
    overlay.release()
    overlay.change(put(replace(exit_, port=9000)))
    assert [verdict for _, verdict in overlay.sets] == [Audience.EVERYBODY]


def test_a_proxys_own_resources_may_name_what_its_group_has_and_may_all_go(written):
    own = written({ONE: "a", TWO: "b", THREE: "c"}, shared=False)
    own.declare({ONE: None, TWO: None, THREE: None, ROUTES: TO_TWO})
    assert {verdict for _, verdict in own.sets} == {Audience.EVERYBODY}
    assert own.settled == {ROUTES: TO_TWO}


def test_endpoints_are_never_tried_or_held(written, make_world):
    some = written({ONE: "a", endpoints(1): "x", endpoints(2): "y", endpoints(3): "z"})
    some.declare({endpoints(1): "new", endpoints(2): None, endpoints(3): None})
    assert some.sets == []
    assert some.settled == {ONE: "a", endpoints(1): "new"}
    world = make_world(1)
    (exit_,) = world.exits.values()
    of_fleet = Group(GatewayEndpoints(next(iter(world.fleets)), None), world)
    of_fleet.change(put(replace(exit_, state=ExitState.LOST)))
    assert of_fleet.sets == []
    assert of_fleet.rollout.settled is of_fleet.rollout.wanted


def test_endpoints_go_on_while_what_uses_them_is_held(written):
    some = written({ONE: "a", endpoints(1): "x"})
    some.declare({ONE: "bad"})
    some.reject(ONE)
    some.declare({endpoints(1): "new"})
    assert some.settled == {ONE: "a", endpoints(1): "new"}


# -- closed change-sets ------------------------------------------------------------------------------------------------


def test_a_cluster_and_the_routes_that_name_it_are_one_set_and_unrelated_changes_another(written):
    some = written({ONE: "a", ROUTES: TO_ONE, THREE: "c", FILTER: "x"})
    some.declare({TWO: "b", ROUTES: TO_BOTH, THREE: "new", FILTER: "new"})
    assert sorted(some.sets, key=lambda each: len(each[0])) == [
        ({THREE}, Audience.CANARIES),
        ({FILTER}, Audience.CANARIES),
        ({TWO, ROUTES}, Audience.CANARIES),
    ]


def test_a_cluster_goes_together_with_the_routes_that_named_it_before(written):
    some = written({ONE: "a", TWO: "b", ROUTES: TO_BOTH})
    some.declare({TWO: None, ROUTES: TO_ONE})
    assert some.sets == [({TWO, ROUTES}, Audience.CANARIES)]
    assert some.settled == {ONE: "a", TWO: "b", ROUTES: TO_BOTH}
    assert some.trial == {ONE: "a", ROUTES: TO_ONE}


def test_a_listener_comes_together_with_its_routes(written):
    some = written({ONE: "a"})
    some.declare({CLIENTS: "8080", ROUTES: TO_ONE})
    assert [{*each} for each, _ in some.sets] == [{CLIENTS, ROUTES}]


def test_what_is_there_before_and_after_holds_up_nothing_that_names_it(written):
    """A listener that is refused keeps no pool from the routes."""
    some = written({ONE: "a", ROUTES: TO_ONE, CLIENTS: "8080"})
    some.declare({CLIENTS: "8081", ONE: "other", TWO: "b", ROUTES: TO_BOTH})
    assert sorted(({*each} for each, _ in some.sets), key=len) == [{ONE}, {CLIENTS}, {ROUTES, TWO}]


def test_a_chain_of_names_is_one_set(written):
    some = written({FILTER: "x"})
    some.declare({ONE: "a", FILTER: TO_ONE, TWO: f"like {TO_ONE}", THREE: "apart"})
    assert sorted((len(each) for each, _ in some.sets), reverse=True) == [3, 1]


def test_what_no_listener_names_nobody_can_try(written):
    groups = ResourceId(names.EXTENSION, names.GROUPS_FILTER)
    each = written({ROUTES: "", groups: ""})
    assert [each.rollout.is_used(it) for it in (ROUTES, groups, ONE)] == [False, False, True]
    each.declare({CLIENTS: ""})  # tried
    assert [each.rollout.is_used(it) for it in (ROUTES, groups)] == [True, False]
    each.declare({CLIENTS: names.GROUPS_FILTER})
    each.reject(CLIENTS)  # to be mended: whoever does shall find routes that were tried
    assert [each.rollout.is_used(it) for it in (ROUTES, groups)] == [True, True]
    each.declare({CLIENTS: None})
    assert not each.rollout.is_used(ROUTES)


def test_a_pool_that_is_declared_is_its_cluster_and_the_routes(gateways):
    pool = replace(next(iter(gateways.world.pools.values())), id=FLEET, country="zz", name="new")
    gateways.change(put(pool))
    assert gateways.sets == [({ResourceId(names.CLUSTER, names.pool_cluster(pool)), ROUTES}, Audience.CANARIES)]


def test_two_replicas_call_a_change_set_the_same(written):
    one, other = written({ONE: "a", TWO: "b"}), written({ONE: "a"})
    other.declare({TWO: "other"})
    other.release()
    for some in (one, other):
        some.declare({ONE: "new", TWO: "b"})
    keys = [{each.key for each in some.rollout.change_sets if ONE in each.wanted} for some in (one, other)]
    assert keys[0] == keys[1]
    one.declare({ONE: "newer"})
    assert {each.key for each in one.rollout.change_sets}.isdisjoint(keys[0])


def test_a_set_that_removes_is_called_otherwise_than_one_that_adds(written):
    some = written({ONE: "a", TWO: "b", THREE: "c"})
    some.declare({ONE: None})
    (gone,) = some.rollout.change_sets
    some.declare({ONE: ""})
    (emptied,) = some.rollout.change_sets
    assert gone.key != emptied.key


# -- rejection ---------------------------------------------------------------------------------------------------------


def test_a_rejected_set_goes_to_nobody_and_what_was_accepted_stays(written):
    some = written({ONE: "a", ROUTES: TO_ONE, FILTER: "x"})
    some.declare({TWO: "bad", ROUTES: TO_BOTH, FILTER: "new"})
    some.reject(TWO, "cluster: no thanks")
    verdicts = {frozenset(each): verdict for each, verdict in some.sets}
    assert verdicts == {frozenset({TWO, ROUTES}): Audience.NOBODY, frozenset({FILTER}): Audience.CANARIES}
    assert some.settled == {ONE: "a", ROUTES: TO_ONE, FILTER: "x"}
    assert some.trial == {ONE: "a", ROUTES: TO_ONE, FILTER: "new"}


def test_a_rejected_set_says_why_in_the_proxys_own_words(written):
    some = written({ONE: "a"})
    some.declare({ONE: "bad"})
    some.reject(ONE, "Proto constraint validation failed")
    assert some.reasons == [f"{ONE.name} was rejected: Proto constraint validation failed"]


def test_fixing_what_was_rejected_clears_it(written):
    some = written({ONE: "a"})
    some.declare({ONE: "bad"})
    some.reject(ONE)
    some.declare({ONE: "mended"})
    assert some.sets == [({ONE}, Audience.CANARIES)]
    some.release()
    assert some.settled == {ONE: "mended"}
    assert some.sets == []


def test_reverting_what_was_rejected_clears_it(written):
    some = written({ONE: "a", ROUTES: TO_ONE})
    some.declare({TWO: "bad", ROUTES: TO_BOTH})
    some.reject(TWO)
    some.declare({TWO: None, ROUTES: TO_ONE})
    assert some.sets == []
    assert some.settled == some.trial == {ONE: "a", ROUTES: TO_ONE}


def test_coming_back_to_what_was_rejected_is_held_again(written):
    some = written({ONE: "a"})
    some.declare({ONE: "bad"})
    some.reject(ONE)
    some.declare({ONE: "mended"})
    some.release()
    some.declare({ONE: "bad"})
    assert some.sets == [({ONE}, Audience.NOBODY)]
    assert some.settled == some.trial == {ONE: "mended"}


def test_what_is_mended_next_to_what_was_rejected_is_still_held_with_it(written):
    """Together they are one change; a part of it would not do."""
    some = written({ONE: "a", ROUTES: TO_ONE})
    some.declare({TWO: "bad", ROUTES: TO_BOTH})
    some.reject(TWO)
    some.declare({ROUTES: f"{TO_BOTH} otherwise"})
    assert some.sets == [({TWO, ROUTES}, Audience.NOBODY)]


def test_of_a_group_that_never_accepted_anything_what_was_rejected_is_left_out_with_all_that_belongs_to_it(written):
    fresh = written()
    fresh.declare({ONE: "a", ROUTES: TO_ONE, CLIENTS: "8080", TWO: "b", FILTER: "x"})
    fresh.reject(ROUTES)
    assert fresh.settled == fresh.trial == {TWO: "b", FILTER: "x"}
    assert sorted(fresh.sets, key=lambda each: each[1]) == [
        ({TWO, FILTER}, Audience.EVERYBODY),
        ({ONE, ROUTES, CLIENTS}, Audience.NOBODY),
    ]


def test_a_later_acceptance_changes_what_a_rejected_version_gives_way_to(written):
    """Else a replica that started later would publish other bytes than one that was there all the time."""
    some = written({ONE: "a"})
    some.declare({ONE: "bad"})
    some.reject(ONE)
    some.change(put(Accepted(ResourceKey(some.scope.key, *_parts(ONE)), "later", b"elsewhere")))
    assert some.settled == {ONE: "elsewhere"}


def _parts(each: ResourceId) -> tuple[str, str]:
    return each.type_url, each.name


def test_a_rejection_in_one_group_holds_nothing_back_from_another(written):
    some = written({ONE: "a"})
    some.declare({ONE: "new"})
    version = some.rollout.wanted.get(ONE).version
    some.change(put(Rejection(ResourceKey("gateway/elsewhere", *_parts(ONE)), version, SOMEBODY, "no")))
    assert some.sets == [({ONE}, Audience.CANARIES)]


def test_every_stream_of_the_group_is_told_of_a_rejection_and_late_ones_never_see_it(gateways):
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
    good = gateways.rollout.settled.get(ROUTES)
    publish(put(replace(next(iter(gateways.world.pools.values())), name="bad")))
    canary, other = boxes
    assert canary.take()[1] == {names.ROUTE: {names.GATEWAY_ROUTES}}
    assert other.take()[1] == {}
    rejection = Rejection(gateways._key(ROUTES), gateways.rollout.wanted.get(ROUTES).version, others[0].id, "no")
    publish(put(rejection))
    assert canary.take()[1] == {names.ROUTE: {names.GATEWAY_ROUTES}}
    assert other.take()[1] == {}
    late = publisher.open(Identity(fleet_id, Role.GATEWAY, others[1].id))
    for box in (canary, other, late):
        assert box.view.get(*_parts(ROUTES)).version == good.version


# -- guard rails -------------------------------------------------------------------------------------------------------


def test_what_names_something_that_does_not_exist_is_held_and_says_so(written):
    some = written({ONE: "a", ROUTES: TO_ONE})
    some.declare({ROUTES: TO_BOTH})
    assert some.sets == [({ROUTES}, Audience.NOBODY)]
    assert some.reasons == [f"{ROUTES.name} names {TWO.name}, which does not exist"]
    assert some.settled == some.trial == {ONE: "a", ROUTES: TO_ONE}
    some.declare({TWO: "b"})
    assert some.sets == [({TWO, ROUTES}, Audience.CANARIES)]


def test_of_several_missing_names_the_same_one_is_told_on_every_replica(written):
    some = written({ONE: "a"})
    some.declare({ROUTES: " ".join(cluster(number).name for number in range(50, 10, -1))})
    assert some.reasons == [f"{ROUTES.name} names {cluster(11).name}, which does not exist"]


def test_taking_away_what_unchanged_routes_name_is_held(written):
    some = written({ONE: "a", TWO: "b", THREE: "c", ROUTES: TO_BOTH})
    some.declare({TWO: None})
    assert [verdict for _, verdict in some.sets] == [Audience.NOBODY]
    assert f"{ROUTES.name} names {TWO.name}" in some.reasons[0]
    assert some.settled == some.trial == {ONE: "a", TWO: "b", THREE: "c", ROUTES: TO_BOTH}
    some.declare({ROUTES: TO_ONE})
    assert some.sets == [({TWO, ROUTES}, Audience.CANARIES)]


def test_also_what_was_never_accepted_is_held_while_it_names_nothing(written):
    fresh = written()
    fresh.declare({ROUTES: TO_ONE, TWO: "b"})
    assert fresh.settled == {TWO: "b"}
    assert (({ROUTES}, Audience.NOBODY)) in fresh.sets


def test_half_of_a_kind_may_go(written):
    some = written({ONE: "a", TWO: "b", THREE: "c", FOUR: "d"})
    some.declare({ONE: None, TWO: None})
    assert {verdict for _, verdict in some.sets} == {Audience.CANARIES}
    assert some.trial == {THREE: "c", FOUR: "d"}


def test_more_than_half_of_a_kind_is_held_and_says_how_many_would_be_left(written):
    some = written({ONE: "a", TWO: "b", THREE: "c", FOUR: "d"})
    some.declare({ONE: None, TWO: None, THREE: None})
    assert {verdict for _, verdict in some.sets} == {Audience.NOBODY}
    assert {*some.reasons} == {"it would leave 1 of 4 Clusters: approve it, or put them back"}
    assert some.settled == some.trial == {ONE: "a", TWO: "b", THREE: "c", FOUR: "d"}


@pytest.mark.parametrize("count", [1, 2])
def test_the_last_of_a_kind_is_held(written, count):
    all_of_them = {cluster(number): "a" for number in range(count)}
    some = written({**all_of_them, FILTER: "x"})
    some.declare(dict.fromkeys(all_of_them))
    assert {verdict for _, verdict in some.sets} == {Audience.NOBODY}
    assert some.settled == {**all_of_them, FILTER: "x"}


def test_what_shrinks_holds_nothing_else(written):
    some = written({ONE: "a", TWO: "b", THREE: "c", FILTER: "x"})
    some.declare({ONE: None, TWO: None, THREE: "new", FILTER: "new"})
    assert some.trial == {ONE: "a", TWO: "b", THREE: "new", FILTER: "new"}


def test_others_in_place_of_those_that_go_are_no_shrink(written):
    some = written({ONE: "a", TWO: "b"})
    some.declare({ONE: None, TWO: None, THREE: "c", FOUR: "d"})
    assert {verdict for _, verdict in some.sets} == {Audience.CANARIES}


def test_putting_back_what_went_clears_a_shrink(written):
    some = written({ONE: "a", TWO: "b", THREE: "c"})
    some.declare({ONE: None, TWO: None})
    some.declare({ONE: "a"})
    assert some.sets == [({TWO}, Audience.CANARIES)]


def test_an_approved_shrink_is_tried_and_says_that_it_needed_one(written):
    some = written({ONE: "a", TWO: "b", THREE: "c", FILTER: "x"})
    some.declare({ONE: None, TWO: None, FILTER: "new"})
    some.approve()
    assert {verdict for _, verdict in some.sets} == {Audience.CANARIES}
    assert some.trial == {THREE: "c", FILTER: "new"}
    shrinks = {frozenset(each.wanted): each.shrinks for each in some.rollout.change_sets}
    assert shrinks == {frozenset({ONE}): True, frozenset({TWO}): True, frozenset({FILTER}): False}


def test_an_approval_lets_nothing_through_that_was_rejected(written):
    some = written({ONE: "a", TWO: "b", THREE: "c", ROUTES: TO_BOTH})
    some.declare({ONE: None, TWO: None, ROUTES: THREE.name})
    some.approve()
    some.reject(ROUTES)
    assert [verdict for _, verdict in some.sets] == [Audience.NOBODY]
    assert some.settled == {ONE: "a", TWO: "b", THREE: "c", ROUTES: TO_BOTH}


def test_an_approval_of_another_fleet_lets_nothing_through(written):
    some = written({ONE: "a"})
    some.declare({ONE: None})
    some.change(put(Approval(SOMEBODY)))
    assert some.sets == [({ONE}, Audience.NOBODY)]


def test_pools_that_go_are_held_when_too_many_and_pass_when_approved(gateways):
    pools = [*gateways.world.pools.values()]
    exits = [*gateways.world.exits.values()]
    gateways.change(*(Change(Kind.EXIT, each.id, None) for each in exits))
    gateways.change(*(Change(Kind.POOL, each.id, None) for each in pools[:2]))
    assert [verdict for _, verdict in gateways.sets] == [Audience.NOBODY]
    assert "1 of 3 Clusters" in gateways.reasons[0]
    gateways.change(put(Approval(gateways.scope.fleet_id)))
    assert [verdict for _, verdict in gateways.sets] == [Audience.CANARIES]


# -- cost --------------------------------------------------------------------------------------------------------------


class Walked(frozenset):
    """Keys that know how often somebody looked through all of them."""

    walks = 0

    def __iter__(self):
        type(self).walks += 1
        return super().__iter__()


@pytest.mark.parametrize("size", [10, 500])
def test_a_plan_looks_at_what_is_pending_and_at_nothing_else(written, monkeypatch, size):
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
    planned, differences = advance(some.rollout, some.world, newer, changes)
    assert translated == [ONE]
    assert {*looked} == {ONE.name}
    assert len(looked) <= 4
    assert Walked.walks == 0
    assert differences.trial == differences.wanted == {ONE}
    kept = planned.trial.resources[names.CLUSTER]
    assert all(kept[each] is some.rollout.settled.resources[names.CLUSTER][each] for each in kept.keys() - {ONE.name})


def test_an_acceptance_translates_nothing(written, monkeypatch):
    some = written({ONE: "a", TWO: "b"})
    some.declare({ONE: "new"})
    translated: list[ResourceId] = []
    monkeypatch.setattr(Written, "translate", lambda *given: translated.append(given[2]))
    changes = [*some._accepted(some.rollout.change_sets[0])]
    newer = some.world.changed(9, changes)
    released, differences = advance(some.rollout, some.world, newer, changes)
    assert translated == []
    assert differences.settled == {ONE}
    assert differences.trial == differences.wanted == frozenset()
    assert released.settled is released.wanted


def test_while_nothing_is_pending_all_share_one_table(gateways):
    assert gateways.rollout.settled is gateways.rollout.trial is gateways.rollout.wanted
