"""Templates give what was defined for any values, and encode nothing anew; test_written_resources.py says what that is."""

from __future__ import annotations

import dataclasses
import string
from base64 import b64decode
from dataclasses import replace
from uuid import UUID

import betterproto2
import pytest
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.entities import Balancing, Exit, Fleet, Listener, Parent, Policy, Pool, Proxy, Resilience, Role
from model.exit_states import ExitState
from model.world import World, put
from tests.scale import scaled
from xds.snapshot.snapshot import advance, build
from xds.translate import names, scopes
from xds.translate.aggregate_clusters import define_aggregate_cluster, translate_aggregate_cluster
from xds.translate.clusters import define_pool_cluster, translate_pool_cluster
from xds.translate.destinations import Destination
from xds.translate.direct_responses import DirectResponse
from xds.translate.encoding import encode
from xds.translate.exit_listener import define_exit_listener, translate_exit_listener
from xds.translate.exit_routes import define_exit_routes, translate_exit_routes
from xds.translate.exit_targets import define_exit_targets, translate_exit_targets
from xds.translate.gateway_routes import translate_gateway_routes
from xds.translate.parent_cluster import define_parent, translate_credentials, translate_parent
from xds.translate.parent_routes import define_parent_routes, translate_parent_routes
from xds.translate.references import references
from xds.translate.route_actions import define_forward, define_refusal, forward, refuse
from xds.translate.scopes import ExitGroup, ExitOverlay, GatewayGroup, ResourceId
from xds.translate.template import ANY_EXIT, ANY_POOL

FLEET = UUID(int=1)
TEXTS = st.text(max_size=20) | st.sampled_from([ANY_POOL.name, ANY_POOL.country, "pool/"])
COUNTRIES = st.text(string.ascii_lowercase, min_size=2, max_size=2) | st.just(ANY_POOL.country)
POOLS = st.builds(
    Pool,
    st.uuids(),
    st.just(FLEET),
    TEXTS,
    COUNTRIES,
    balancing=st.builds(Balancing, st.sampled_from(Policy)),
    resilience=st.builds(Resilience, st.integers(0, 100), st.integers(0, 100), failures_to_eject=st.integers(1, 100)),
)
ADDRESSES = st.ip_addresses().map(str) | st.sampled_from(["127.0.0.1", "::1"])
CREDENTIALS = st.none() | st.text("abc", min_size=1)
PARENTS = st.builds(Parent, ADDRESSES | st.just("gluetun"), st.integers(1, 65535), CREDENTIALS, CREDENTIALS)
EXITS = st.builds(
    Exit,
    st.uuids(),
    st.uuids(),
    TEXTS,
    endpoint=ADDRESSES,
    port=st.integers(1, 65535),
    state=st.sampled_from(ExitState),
    bind_address=ADDRESSES,
    egress_address=st.none() | ADDRESSES,
    parent=st.none() | PARENTS,
)


drawn = settings(
    max_examples=scaled(10), deadline=None
)  # the plain way costs milliseconds, and the first time hundreds


def assert_same(translated, defined):
    """Equal when read by Envoy's own classes, which know every field, and what is packed into an Any as bytes."""
    assert type(defined).parse(encode(translated)) == type(defined).parse(encode(defined))
    assert len(encode(translated)) == len(encode(defined))


@drawn
@given(POOLS)
def test_a_pools_cluster_is_what_was_defined(pool):
    assert_same(translate_pool_cluster(pool), define_pool_cluster(pool))


@drawn
@given(POOLS)
def test_the_routes_of_a_pools_exits_are_what_was_defined(pool):
    assert_same(translate_exit_routes(pool), define_exit_routes(pool))


@drawn
@given(POOLS)
def test_what_leads_to_a_pool_is_what_was_defined(pool):
    there = (Destination(1, (pool,)),)
    assert MatcherOnMatch.parse(forward(there)) == MatcherOnMatch.parse(encode(define_forward(there)))


@drawn
@given(st.builds(DirectResponse, st.integers(200, 599), TEXTS))
def test_a_refusal_is_what_was_defined(refusal):
    assert MatcherOnMatch.parse(refuse(refusal)) == MatcherOnMatch.parse(encode(define_refusal(refusal)))


@drawn
@given(st.lists(POOLS, min_size=2, max_size=4))
def test_a_cluster_that_goes_on_from_pool_to_pool_is_what_was_defined(pools):
    assert_same(translate_aggregate_cluster(pools), define_aggregate_cluster(pools))


@drawn
@given(st.none() | ADDRESSES)
def test_the_targets_of_an_exit_are_what_was_defined(egress_address):
    assert_same(translate_exit_targets(egress_address), define_exit_targets(egress_address))


@drawn
@given(EXITS, st.uuids())
def test_the_listener_of_an_exit_is_what_was_defined(exit_, fleet_id):
    assert_same(translate_exit_listener(exit_, fleet_id), define_exit_listener(exit_, fleet_id))


@drawn
@given(POOLS)
def test_the_routes_of_exits_with_a_parent_are_what_was_defined(pool):
    assert_same(translate_parent_routes(pool), define_parent_routes(pool))


@drawn
@given(PARENTS, st.none() | ADDRESSES)
def test_the_cluster_of_a_parent_is_what_was_defined_and_holds_no_credentials(parent, egress_address):
    assert_same(translate_parent(parent, egress_address), define_parent(parent, egress_address))


def test_a_parents_cluster_is_the_same_whatever_its_credentials_are():
    some, others = (Parent("gluetun", 8888, name, 2 * name) for name in ("a", "b"))
    assert encode(translate_parent(some)) == encode(translate_parent(others))
    assert encode(translate_parent(some)) != encode(translate_parent(Parent("gluetun", 8888)))


def test_credentials_are_the_whole_value_of_a_header_in_utf_8():
    secret = translate_credentials(Parent("gluetun", 8888, "us\u00e9r", "p\u00e4ss: word"))
    scheme, _, encoded = secret.generic_secret.secret.inline_string.partition(" ")
    assert (scheme, b64decode(encoded).decode()) == ("Basic", "us\u00e9r:p\u00e4ss: word")
    assert translate_credentials(Parent("gluetun", 8888)) is None


def test_an_exit_with_a_parent_is_given_nothing_to_dial_a_target_by():
    """Whatever part of it arrives, or is refused."""
    pool = make_pool(1)
    parent = Parent("gluetun", 8888, "a", "b")
    exit_ = Exit(
        UUID(int=5), pool.id, "x", "192.0.2.1", 8443, ExitState.HEALTHY, egress_address="10.0.0.1", parent=parent
    )
    envoy = Proxy(exit_.id, FLEET, "x", Role.EXIT)
    world = World().changed(1, map(put, [Fleet(FLEET, "demo"), pool, exit_, envoy]))
    given = scopes.scopes_of(envoy, world)
    found = {each: encode(scope.translate(world, each)) for scope in given for each in scope.resources(world)}
    assert {each.name for each in found} == {
        names.EXIT_LISTENER,
        names.PARENT,
        names.PARENT_ROUTES,
        names.PARENT_SECRET,
    }
    for body in found.values():
        assert b"dynamic_forward_proxy" not in body
    routes, listener = (
        ResourceId(*it) for it in ((names.ROUTE, names.PARENT_ROUTES), (names.LISTENER, names.EXIT_LISTENER))
    )
    assert references(*dataclasses.astuple(listener), found[listener]) == {routes}
    assert references(*dataclasses.astuple(routes), found[routes]) == frozenset()


def test_what_is_set_to_nothing_stays_set():
    """Envoy refuses a source address without a port, though the port is 0."""
    for translated in (translate_exit_targets("10.0.0.1"), translate_exit_targets("127.0.0.1")):
        assert translated.upstream_bind_config.source_address.HasField("port_value")


def test_a_template_is_not_what_is_made_of_it():
    first = encode(translate_gateway_routes([make_pool(1)]))
    translate_gateway_routes([])
    translate_gateway_routes([make_pool(2), make_pool(3)])
    assert encode(translate_gateway_routes([make_pool(1)])) == first


def test_the_order_in_which_pools_come_makes_no_difference():
    pools = [make_pool(number) for number in range(20)]
    assert encode(translate_gateway_routes(pools)) == encode(translate_gateway_routes(pools[::-1]))


def test_the_example_is_named_nowhere():
    """Neither in what is said of served countries, nor in any name."""
    exit_ = Exit(UUID(int=5), UUID(int=6), "x", "192.0.2.1", 8443, ExitState.HEALTHY)
    for translated in (
        *(translate_gateway_routes(pools) for pools in ([], [make_pool(1)])),
        translate_pool_cluster(make_pool(1)),
        translate_exit_routes(make_pool(1)),
        translate_exit_listener(exit_, FLEET),
    ):
        for word in (ANY_POOL.name, ANY_POOL.country, str(ANY_POOL.id), ANY_EXIT.name):
            assert word.encode() not in encode(translated)


def test_the_routes_name_the_clusters_of_all_pools():
    pools = [make_pool(number) for number in range(5)]
    body = encode(translate_gateway_routes(pools))
    assert references(names.ROUTE, names.GATEWAY_ROUTES, body) == {
        ResourceId(names.CLUSTER, names.pool_cluster(pool)) for pool in pools
    }
    assert references(names.CLUSTER, "x", encode(translate_pool_cluster(pools[0])))


def test_without_pools_no_table_is_empty():
    """Envoy refuses those."""
    (host,) = RouteConfiguration.parse(encode(translate_gateway_routes([]))).virtual_hosts
    assert all(entry.on_match.action for entry in host.matcher.matcher_list.matchers)
    assert host.matcher.on_no_match.matcher.matcher_tree is None


# -- cost --------------------------------------------------------------------------------------------------------------


def make_pool(number: int) -> Pool:
    return Pool(UUID(int=1000 + number), FLEET, f"pool-{number}", f"c{number}")


def make_exits(pools: int) -> list[Exit]:
    """Two of each pool: one that leaves from an address of its own, one that does not."""
    plain = [
        Exit(UUID(int=2 * 10**6 + number), make_pool(number).id, "x", "192.0.2.1", 1 + number, ExitState.HEALTHY)
        for number in range(pools)
    ]
    return [
        *plain,
        *(
            replace(exit_, id=UUID(int=10**6 + exit_.id.int), egress_address=f"10.0.0.{exit_.port % 256}")
            for exit_ in plain
        ),
    ]


def make_world(pools: int) -> World:
    listener = Listener(UUID(int=2), FLEET, "127.0.0.1", 8080)
    entities = [Fleet(FLEET, "demo"), listener, *map(make_pool, range(pools)), *make_exits(pools)]
    return World().changed(1, map(put, entities))


@pytest.fixture
def encoded(monkeypatch) -> list[str]:
    """What is encoded with Envoy's own types from now on; the templates have been made, as by a first pool."""
    warm = make_world(1)
    for scope in (GatewayGroup(FLEET), *(scope for exit_ in warm.exits.values() for scope in scopes_of(exit_))):
        build(scope, warm)
    seen: list[str] = []
    encode_slowly = betterproto2.Message.__bytes__

    def count(message):
        seen.append(type(message).__name__)
        return encode_slowly(message)

    monkeypatch.setattr(betterproto2.Message, "__bytes__", count)
    return seen


def scopes_of(exit_):
    return ExitGroup(exit_.pool_id), ExitOverlay(exit_.id)


def test_what_counts_encodings_sees_them(encoded):
    encode(define_pool_cluster(make_pool(1)))
    assert "Cluster" in encoded


@pytest.mark.parametrize("pools", [3, 300])
def test_a_fleet_encodes_its_listener_and_nothing_for_its_pools(encoded, pools):
    build(GatewayGroup(FLEET), make_world(pools))
    assert encoded.count("Listener") == 1
    assert {"Cluster", "RouteConfiguration", "Route"}.isdisjoint(encoded)


@pytest.mark.parametrize("pools", [3, 300])
def test_a_new_pool_encodes_nothing_with_envoys_own_types(encoded, pools):
    old, scope = make_world(pools), GatewayGroup(FLEET)
    snapshot = build(scope, old)
    encoded.clear()
    change = put(make_pool(pools))
    newer, differing = advance(snapshot, old, old.changed(2, [change]), [change])
    assert encoded == []
    assert len(differing) == 2
    assert len(newer.resources[names.CLUSTER]) == pools + 1


def test_a_renamed_pool_makes_its_own_entry_anew_and_no_other():
    pools = [make_pool(number) for number in range(50)]
    translate_gateway_routes(pools)
    made = forward.cache_info().misses
    translate_gateway_routes([replace(pools[0], name="renamed"), *pools[1:]])
    assert forward.cache_info().misses == made + 1


@pytest.mark.parametrize("pools", [3, 300])
def test_exits_that_come_all_at_once_encode_nothing_with_envoys_own_types(encoded, pools):
    world = make_world(pools)
    for exit_ in world.exits.values():
        for scope in scopes_of(exit_):
            build(scope, world)
    assert encoded == []
