"""Resources from templates equal their definitions, and need no new encoding; test_resource_content.py checks definitions."""

from __future__ import annotations

import dataclasses
import string
from base64 import b64decode
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import get_type_hints
from uuid import UUID

import betterproto2
import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.entities import Balancing, Exit, Fleet, Listener, Parent, Pool, Proxy, Resilience, Role
from model.exit_states import ExitState
from model.locality import Locality
from model.world import World, put
from tests.scale import scaled
from xds.snapshot.snapshot import advance, build
from xds.translate import clusters, names, resource_ids, scopes
from xds.translate.affected import affected
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
from xds.translate.resource_ids import ResourceId
from xds.translate.route_actions import define_forward, define_response, forward, respond
from xds.translate.scopes import ExitGroup, ExitOverlay, GatewayGroup
from xds.translate.template import ANY_EXIT, ANY_POOL, POOL_FIELDS, TemplateFields

FLEET = UUID(int=1)
NUMBERS = st.integers(1, 100)


def every_field(entity_class, **given):
    """Draw a value for each field of a dataclass, also of fields added later. `given` overrides what the type implies."""
    found = {}
    for name, hint in get_type_hints(entity_class).items():
        found[name] = {int: NUMBERS, int | None: st.none() | NUMBERS}.get(hint, ...)
    return st.builds(entity_class, **found | given)


TEXTS = st.text(max_size=20) | st.sampled_from([ANY_POOL.name, ANY_POOL.country, "pool/"])
COUNTRIES = st.text(string.ascii_lowercase, min_size=2, max_size=2) | st.just(ANY_POOL.country)
POOLS = every_field(
    Pool,
    fleet_id=st.just(FLEET),
    name=TEXTS,
    country=COUNTRIES,
    city=COUNTRIES | st.just(""),
    balancing=every_field(Balancing),
    resilience=every_field(Resilience),
)
ADDRESSES = st.ip_addresses().map(str) | st.sampled_from(["127.0.0.1", "::1"])
CREDENTIALS = st.none() | st.text("abc", min_size=1)
PARENTS = every_field(
    Parent,
    address=ADDRESSES | st.just("gluetun"),
    port=st.integers(1, 65535),
    username=CREDENTIALS,
    password=CREDENTIALS,
)
EXITS = every_field(
    Exit,
    name=TEXTS,
    endpoint=ADDRESSES,
    port=st.integers(1, 65535),
    bind_address=ADDRESSES,
    egress_address=st.none() | ADDRESSES,
    locality=st.sampled_from([None, Locality("eu", "a"), Locality("us")]),
    parent=st.none() | PARENTS,
)


drawn = settings(
    max_examples=scaled(10), deadline=None
)  # a definition takes milliseconds to encode, the first one hundreds


def assert_same(translated, defined):
    """Compare after parsing by Envoy's classes, which know every field; the contents of an Any are compared as bytes."""
    assert type(defined).parse(encode(translated)) == type(defined).parse(encode(defined))
    assert len(encode(translated)) == len(encode(defined))


@drawn
@given(POOLS)
def test_pool_cluster_equals_its_definition(pool):
    assert_same(translate_pool_cluster(pool), define_pool_cluster(pool))


@dataclass(frozen=True, slots=True)
class PoolWithNewField(Pool):
    """A pool of a later version, whose cluster depends on a new field."""

    connect_timeout_s: int = 3


def test_field_added_to_pool_is_part_of_template_key(monkeypatch):
    def define(pool):
        return Cluster(connect_timeout=timedelta(seconds=pool.connect_timeout_s))

    any_pool = PoolWithNewField(**{field.name: getattr(ANY_POOL, field.name) for field in dataclasses.fields(Pool)})
    excluded = {field.name for field in dataclasses.fields(Pool)} - {*POOL_FIELDS.names}
    monkeypatch.setattr(clusters, "POOL_FIELDS", TemplateFields(any_pool, *excluded))
    monkeypatch.setattr(clusters, "define_pool_cluster", define)
    pools = [replace(any_pool, id=UUID(int=1), connect_timeout_s=seconds) for seconds in (3, 5)]
    translated = [Cluster.parse(encode(translate_pool_cluster(pool))) for pool in pools]
    assert [cluster.connect_timeout for cluster in translated] == [timedelta(seconds=3), timedelta(seconds=5)]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Pool)])
@drawn
@given(POOLS, POOLS)
def test_pool_cluster_follows_each_field(field, pool, other):
    translate_pool_cluster(pool)
    changed = replace(pool, **{field: getattr(other, field)})
    assert_same(translate_pool_cluster(changed), define_pool_cluster(changed))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Exit)])
@drawn
@given(EXITS, EXITS)
def test_exit_listener_follows_each_field(field, exit_, other):
    translate_exit_listener(exit_)
    changed = replace(exit_, **{field: getattr(other, field)})
    assert_same(translate_exit_listener(changed), define_exit_listener(changed))


@drawn
@given(POOLS)
def test_exit_routes_equal_their_definition(pool):
    assert_same(translate_exit_routes(pool), define_exit_routes(pool.name))


@drawn
@given(POOLS)
def test_forward_action_equals_its_definition(pool):
    defined = define_forward(names.pool_cluster(pool), pool.name, pool.balancing.session_ttl_s)
    assert MatcherOnMatch.parse(forward((Destination(1, (pool,)),))) == MatcherOnMatch.parse(encode(defined))


@drawn
@given(st.builds(DirectResponse, st.integers(200, 599), TEXTS))
def test_direct_response_equals_its_definition(refusal):
    assert MatcherOnMatch.parse(respond(refusal)) == MatcherOnMatch.parse(encode(define_response(refusal)))


@drawn
@given(st.lists(POOLS, min_size=2, max_size=4))
def test_aggregate_cluster_equals_its_definition(pools):
    name = names.aggregate_cluster(pool.id for pool in pools)
    assert_same(translate_aggregate_cluster(pools), define_aggregate_cluster(name, [*map(names.pool_cluster, pools)]))


@drawn
@given(st.none() | ADDRESSES)
def test_exit_targets_equal_their_definition(egress_address):
    assert_same(translate_exit_targets(egress_address), define_exit_targets(egress_address))


@drawn
@given(EXITS)
def test_exit_listener_equals_its_definition(exit_):
    assert_same(translate_exit_listener(exit_), define_exit_listener(exit_))


@drawn
@given(POOLS)
def test_parent_routes_equal_their_definition(pool):
    assert_same(translate_parent_routes(pool), define_parent_routes(pool.name))


@drawn
@given(PARENTS, st.none() | ADDRESSES)
def test_parent_cluster_equals_its_definition(parent, egress_address):
    assert_same(translate_parent(parent, egress_address), define_parent(parent, egress_address))


def test_parent_cluster_does_not_depend_on_credential_values():
    some, others = (Parent("gluetun", 8888, name, 2 * name) for name in ("a", "b"))
    assert encode(translate_parent(some)) == encode(translate_parent(others))
    assert encode(translate_parent(some)) != encode(translate_parent(Parent("gluetun", 8888)))


def test_credentials_are_a_whole_header_value_in_utf_8():
    secret = translate_credentials(Parent("gluetun", 8888, "us\u00e9r", "p\u00e4ss: word"))
    scheme, _, encoded = secret.generic_secret.secret.inline_string.partition(" ")
    assert (scheme, b64decode(encoded).decode()) == ("Basic", "us\u00e9r:p\u00e4ss: word")
    assert translate_credentials(Parent("gluetun", 8888)) is None


@pytest.mark.parametrize("address", ["10.0.0.1", "gluetun"])
def test_exit_with_parent_has_no_way_to_dial_targets(address):
    """It could dial none even with a part of its configuration: a parent's name is the only host that it resolves."""
    pool = make_pool(1)
    parent = Parent(address, 8888, "a", "b")
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
        names.ADMISSION_FILTER,
    }
    resolving = [each.name for each, body in found.items() if b"dynamic_forward_proxy" in body]
    assert sorted(resolving) == ([names.EXIT_LISTENER, names.PARENT] if parent.is_named else [])
    assert (b"envoy.upstream.dynamic_host" in found[resource_ids.EXIT_LISTENER]) == parent.is_named
    routes, listener = (
        ResourceId(*it) for it in ((names.ROUTE, names.PARENT_ROUTES), (names.LISTENER, names.EXIT_LISTENER))
    )
    assert references(*dataclasses.astuple(listener), found[listener]) == {routes}
    assert references(*dataclasses.astuple(routes), found[routes]) == frozenset()


def test_port_zero_of_source_address_stays_set():
    """Envoy rejects a source address without a port, although the port is 0."""
    for translated in (translate_exit_targets("10.0.0.1"), translate_exit_targets("127.0.0.1")):
        assert translated.upstream_bind_config.source_address.HasField("port_value")


def test_translation_does_not_change_its_template():
    first = encode(translate_gateway_routes([make_pool(1)]))
    translate_gateway_routes([])
    translate_gateway_routes([make_pool(2), make_pool(3)])
    assert encode(translate_gateway_routes([make_pool(1)])) == first


def test_order_of_pools_does_not_matter():
    pools = [make_pool(number) for number in range(20)]
    assert encode(translate_gateway_routes(pools)) == encode(translate_gateway_routes(pools[::-1]))


def test_sample_values_never_leak_into_resources():
    """They are in no list of served countries, and in no name."""
    exit_ = Exit(UUID(int=5), UUID(int=6), "x", "192.0.2.1", 8443, ExitState.HEALTHY)
    for translated in (
        *(translate_gateway_routes(pools) for pools in ([], [make_pool(1)])),
        translate_pool_cluster(make_pool(1)),
        translate_exit_routes(make_pool(1)),
        translate_exit_listener(exit_),
    ):
        for word in (ANY_POOL.name, ANY_POOL.country, str(ANY_POOL.id), ANY_EXIT.name):
            assert word.encode() not in encode(translated)


def test_routes_refer_to_clusters_of_all_pools():
    pools = [make_pool(number) for number in range(5)]
    body = encode(translate_gateway_routes(pools))
    assert references(names.ROUTE, names.GATEWAY_ROUTES, body) == {
        ResourceId(names.CLUSTER, names.pool_cluster(pool)) for pool in pools
    }
    assert references(names.CLUSTER, "x", encode(translate_pool_cluster(pools[0])))


def test_routes_without_pools_have_no_empty_table():
    """Envoy rejects empty tables."""
    (host,) = RouteConfiguration.parse(encode(translate_gateway_routes([]))).virtual_hosts
    assert all(entry.on_match.action for entry in host.matcher.matcher_list.matchers)
    assert host.matcher.on_no_match.matcher.matcher_tree is None


# -- cost --------------------------------------------------------------------------------------------------------------


def make_pool(number: int) -> Pool:
    return Pool(UUID(int=1000 + number), FLEET, f"pool-{number}", f"c{number}")


def make_exits(pools: int) -> list[Exit]:
    """Make two exits of each pool, one of them with an egress address."""
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
    """Record the names of Envoy's types that are encoded from now on. Templates exist already."""
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


def test_encoding_counter_counts(encoded):
    encode(define_pool_cluster(make_pool(1)))
    assert "Cluster" in encoded


@pytest.mark.parametrize("pools", [3, 300])
def test_fleet_encodes_its_listener_and_nothing_per_pool(encoded, pools):
    build(GatewayGroup(FLEET), make_world(pools))
    assert encoded.count("Listener") == 1
    assert {"Cluster", "RouteConfiguration", "Route"}.isdisjoint(encoded)


@pytest.mark.parametrize("pools", [3, 300])
def test_new_pool_encodes_nothing_with_envoy_types(encoded, pools):
    old, scope = make_world(pools), GatewayGroup(FLEET)
    snapshot = build(scope, old)
    encoded.clear()
    change = put(make_pool(pools))
    new = old.changed(2, [change])
    newer, differing = advance(snapshot, new, affected([change], old, new)[scope.key].declared)
    assert encoded == []
    assert len(differing) == 2
    assert len(newer.resources[names.CLUSTER]) == pools + 1


def test_renamed_pool_rebuilds_its_own_entry_only():
    pools = [make_pool(number) for number in range(50)]
    translate_gateway_routes(pools)
    made = forward.cache_info().misses
    translate_gateway_routes([replace(pools[0], name="renamed"), *pools[1:]])
    assert forward.cache_info().misses == made + 1


@pytest.mark.parametrize("pools", [3, 300])
def test_many_new_exits_encode_nothing_with_envoy_types(encoded, pools):
    world = make_world(pools)
    for exit_ in world.exits.values():
        for scope in scopes_of(exit_):
            build(scope, world)
    assert encoded == []
