"""Balancing and resilience of pools in clusters, endpoints and routes."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from uuid import UUID

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterLbPolicy
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
from envoy_data_plane.envoy.config.route.v3 import (
    RouteAction,
    RouteActionHashPolicy,
    RouteActionHashPolicyFilterState,
    RouteList,
)
from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch

from model.entities import (
    BALANCING,
    RESILIENCE,
    Balancing,
    Exit,
    Fleet,
    Listener,
    Policy,
    Pool,
    Proxy,
    Resilience,
    Role,
    WeighBy,
)
from model.exit_states import ExitState
from model.locality import Locality
from model.stored_pools import read_balancing, read_resilience
from model.world import World, put
from xds.snapshot.snapshot import advance, build
from xds.translate import names
from xds.translate.affected import affected
from xds.translate.client_intent import RequestedLocation
from xds.translate.clusters import translate_pool_cluster
from xds.translate.destinations import Destination
from xds.translate.encoding import encode
from xds.translate.endpoints import translate_endpoints
from xds.translate.explain import ExplainRequest, explain
from xds.translate.route_actions import forward, forward_to_pool
from xds.translate.scopes import GatewayEndpoints, GatewayGroup

FLEET = UUID(int=2)
POOL = Pool(UUID(int=1), FLEET, "de", "de")
OTHER = Pool(UUID(int=3), FLEET, "fr", "fr")
HERE = Locality("eu", "a")
ENVOY_DEFAULT_FACTOR = 140
"""Envoy's default overprovisioning factor, in percent."""


def cluster(pool: Pool) -> Cluster:
    return Cluster.parse(encode(translate_pool_cluster(pool)))


def make_exit(number: int, locality: Locality | None = None, **fields) -> Exit:
    state = fields.pop("state", ExitState.HEALTHY)
    return Exit(
        UUID(int=100 + number), POOL.id, f"x{number}", f"192.0.2.{number}", 8443, state, locality=locality, **fields
    )


def endpoints_of(*exits: Exit, here: Locality | None = None) -> ClusterLoadAssignment:
    """Parse the endpoints with Envoy's types."""
    return ClusterLoadAssignment.parse(encode(translate_endpoints(POOL, exits, here)))


def priorities(*exits: Exit, here: Locality | None = None) -> dict[int, set[int]]:
    """List the numbers of the exits by priority."""
    found: dict[int, set[int]] = {}
    for group in endpoints_of(*exits, here=here).endpoints:
        for each in group.lb_endpoints:
            address = each.endpoint.address.socket_address.address
            found.setdefault(group.priority, set()).add(int(address.rpartition(".")[2]))
    return found


def weights(*exits: Exit) -> list[int | None]:
    return [each.load_balancing_weight for group in endpoints_of(*exits).endpoints for each in group.lb_endpoints]


# -- policies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "envoys"),
    [
        (Policy.LEAST_REQUEST, ClusterLbPolicy.LEAST_REQUEST),
        (Policy.ROUND_ROBIN, ClusterLbPolicy.ROUND_ROBIN),
        (Policy.RANDOM, ClusterLbPolicy.RANDOM),
        (Policy.SESSION, ClusterLbPolicy.RING_HASH),
    ],
)
def test_policy_becomes_envoy_policy(policy, envoys):
    assert cluster(replace(POOL, balancing=Balancing(policy))).lb_policy is envoys


def test_default_policy_is_least_request():
    assert cluster(POOL).lb_policy is ClusterLbPolicy.LEAST_REQUEST


@pytest.mark.parametrize(
    "way", [forward_to_pool(POOL), forward((Destination(1, (POOL, OTHER)),)), forward((Destination(1, (POOL,)),) * 2)]
)
def test_forward_actions_hash_the_session_alone(way):
    for action in actions(way):
        (policy,) = action.hash_policy
        assert policy == RouteActionHashPolicy(filter_state=RouteActionHashPolicyFilterState(key=names.SESSION_STATE))


@pytest.mark.parametrize(
    ("ttls", "key"),
    [((600,), "exitplane.session.600"), ((600, 60), "exitplane.session.60"), ((None, 300), "exitplane.session.300")],
)
def test_session_ttl_is_the_shortest_of_the_pools(ttls, key):
    pools = tuple(
        replace(POOL, id=UUID(int=90 + n), balancing=Balancing(Policy.SESSION, session_ttl_s=ttl))
        for n, ttl in enumerate(ttls)
    )
    for action in actions(forward((Destination(1, pools),))):
        assert [policy.filter_state.key for policy in action.hash_policy] == [key]


def actions(on_match: bytes) -> list[RouteAction]:
    packed = MatcherOnMatch.parse(on_match).action.typed_config
    return [route.route for route in RouteList.parse(packed.value).routes]


# -- weights -----------------------------------------------------------------------------------------------------------


def test_endpoints_have_exit_weights():
    assert weights(make_exit(1, weight=5), make_exit(2), make_exit(3, weight=128)) == [5, 1, 128]


def test_equal_weights_are_left_out():
    assert weights(make_exit(1), make_exit(2)) == [None, None]


def test_weight_of_unoffered_exit_is_ignored():
    assert weights(make_exit(1), make_exit(2, weight=5, state=ExitState.LOST)) == [None]


# -- standby -----------------------------------------------------------------------------------------------------------


def test_standby_exits_come_after_all_others():
    assert priorities(make_exit(1, standby=True), make_exit(2), make_exit(3)) == {0: {2, 3}, 1: {1}}


def test_standby_exits_come_after_far_ones_near_first():
    exits = [
        make_exit(1, HERE, standby=True),
        make_exit(2, HERE),
        make_exit(3, Locality("us"), standby=True),
        make_exit(4, Locality("us")),
        make_exit(5, Locality("eu", "b"), standby=True),
    ]
    assert priorities(*exits, here=HERE) == {0: {2}, 1: {4}, 2: {1}, 3: {5}, 4: {3}}


def test_standby_exits_come_first_without_others():
    exits = [make_exit(1, standby=True), make_exit(2, state=ExitState.LOST)]
    assert priorities(*exits) == {0: {1}}


@pytest.mark.parametrize("exits", [1, 10, 1_000])
def test_one_healthy_exit_keeps_standby_exits_unused(exits):
    policy = endpoints_of(make_exit(1), make_exit(2, standby=True)).policy
    assert policy.overprovisioning_factor * 1 // exits >= 100
    assert policy.overprovisioning_factor * exits < 2**32, "Envoy multiplies in 32 bits"
    assert ENVOY_DEFAULT_FACTOR * 1 // 10 < 100, "otherwise the factor would make no difference"


def test_pool_without_standby_keeps_default_overprovisioning():
    assert endpoints_of(make_exit(1), make_exit(2)).policy is None
    assert endpoints_of(make_exit(1), make_exit(2, standby=True, state=ExitState.LOST)).policy is None


def test_explanation_lists_standby_exits_last_of_serving_ones():
    exits = [
        make_exit(1, HERE, standby=True),
        make_exit(2, Locality("us")),
        make_exit(3, HERE, state=ExitState.LOST),
        make_exit(4, HERE),
    ]
    world = make_world(POOL, *exits)
    found = explain(world, FLEET, ExplainRequest("example.com", 443, location=RequestedLocation(country="de")), HERE)
    assert [each.exit.name for each in found.paths[0].pools[0].exits] == ["x4", "x2", "x1", "x3"]


# -- resilience --------------------------------------------------------------------------------------------------------


def test_cluster_has_resilience_of_its_pool():
    resilience = Resilience(
        panic_threshold_percent=10,
        check_interval_s=11,
        check_timeout_s=4,
        unhealthy_after=6,
        healthy_after=9,
    )
    made = cluster(replace(POOL, resilience=resilience))
    (check,) = made.health_checks
    assert made.common_lb_config.healthy_panic_threshold.value == 10
    assert (check.interval, check.no_traffic_interval) == (timedelta(seconds=11),) * 2
    assert check.timeout == timedelta(seconds=4)
    assert (check.unhealthy_threshold, check.healthy_threshold) == (6, 9)


def test_pool_fails_closed_by_default():
    assert cluster(POOL).common_lb_config.healthy_panic_threshold.value == 0


def test_no_failure_of_a_request_ejects_an_exit():
    outliers = cluster(POOL).outlier_detection
    enforced = {each.name for each in fields(outliers) if each.name.startswith("enforcing_")}
    assert {name: getattr(outliers, name) for name in enforced} == dict.fromkeys(enforced, 0)


# -- as stored, and as changed -----------------------------------------------------------------------------------------


def test_empty_stored_settings_are_defaults():
    assert read_balancing({}) is BALANCING
    assert read_resilience({}) is RESILIENCE
    assert read_balancing({"policy": "session"}) == Balancing(Policy.SESSION)
    assert read_resilience({"unhealthy_after": 9}) == Resilience(unhealthy_after=9)


def test_unknown_stored_values_read_as_defaults():
    assert read_balancing({"policy": "of_tomorrow", "weigh_by": "luck"}) == BALANCING
    assert read_balancing({"policy": "of_tomorrow", "weigh_by": "cost"}) == Balancing(weigh_by=WeighBy.COST)


def test_unknown_stored_settings_are_ignored():
    assert read_resilience({"unhealthy_after": 9, "of_tomorrow": 1}) == Resilience(unhealthy_after=9)


def test_resilience_stored_by_previous_release_is_read():
    stored = {"falls_borne": 2, "falls_window_s": 60}
    assert read_resilience(stored) == Resilience(flap_threshold=2, flap_window_s=60)
    assert read_resilience(stored | {"flap_threshold": 3}) == Resilience(flap_threshold=3, flap_window_s=60)


def make_world(*entities) -> World:
    listener = Listener(UUID(int=9), FLEET, "127.0.0.1", 8080)
    gateway = Proxy(UUID(int=8), FLEET, "gw-1", Role.GATEWAY)
    return World().changed(1, map(put, [Fleet(FLEET, "demo"), gateway, listener, *entities]))


@pytest.mark.parametrize(
    "changed",
    [replace(POOL, balancing=Balancing(Policy.SESSION)), replace(POOL, resilience=Resilience(unhealthy_after=9))],
)
def test_changed_balancing_or_resilience_changes_one_cluster(changed):
    old, scope, change = make_world(POOL, OTHER), GatewayGroup(FLEET), put(changed)
    new = old.changed(2, [change])
    _, differing = advance(build(scope, old), new, affected([change], old, new)[scope.key].declared)
    assert {each.name for each in differing} == {names.pool_cluster(POOL)}


@pytest.mark.parametrize("change", [{"weight": 2}, {"standby": True}])
def test_changed_weight_or_standby_changes_endpoints_of_its_pool(change):
    first, second = make_exit(1), make_exit(2)
    old, scope, put_first = (
        make_world(POOL, OTHER, first, second),
        GatewayEndpoints(FLEET, None),
        put(replace(first, **change)),
    )
    new = old.changed(2, [put_first])
    _, differing = advance(build(scope, old), new, affected([put_first], old, new)[scope.key].declared)
    assert {each.name for each in differing} == {names.pool_cluster(POOL)}
