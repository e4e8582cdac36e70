"""The resources that each kind of change affects."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from model.entities import (
    Accepted,
    Approval,
    Exit,
    Fleet,
    Listener,
    Match,
    Pool,
    Proxy,
    ResourceKey,
    Role,
    Route,
    ServerCertificate,
    ToPools,
    Tracing,
    User,
    user_shard,
)
from model.exit_states import ExitState
from model.locality import Locality
from model.world import Change, Kind, World, put
from xds.translate import names, resource_ids
from xds.translate.affected import affected
from xds.translate.resource_ids import USERS, ResourceId
from xds.translate.scopes import ExitGroup, ExitOverlay, GatewayEndpoints, GatewayGroup, ParentProxyGroup

FLEET, OTHER_FLEET = UUID(int=1), UUID(int=2)
HERE = Locality("eu", "a")
POOL = Pool(UUID(int=11), FLEET, "de", "de")
SPARE = Pool(UUID(int=12), FLEET, "us", "us")
EXIT = Exit(UUID(int=21), POOL.id, "x", "192.0.2.1", 8443, ExitState.HEALTHY)
LISTENER = Listener(UUID(int=31), FLEET, "127.0.0.1", 8080, pool_id=POOL.id)
USER = User(UUID(int=41), FLEET, "alice", "staff")
TO_BOTH = ToPools(((POOL.id, 1),), (SPARE.id,))
ROUTE = Route(UUID(int=51), FLEET, "r", 0, enabled=True, match=Match(groups=frozenset({"staff"})), action=TO_BOTH)
CERTIFICATE = ServerCertificate(UUID(int=61), FLEET, "c", "chain", "key")
GATEWAY = Proxy(UUID(int=71), FLEET, "gw-1", Role.GATEWAY, HERE)
EXIT_ENVOY = Proxy(EXIT.id, FLEET, "x", Role.EXIT)
WORLD = World().changed(
    1,
    map(
        put,
        (
            *(Fleet(FLEET, "one"), Fleet(OTHER_FLEET, "other"), POOL, SPARE, EXIT, LISTENER),
            *(USER, ROUTE, CERTIFICATE, GATEWAY, EXIT_ENVOY),
        ),
    ),
)
GATEWAYS, ENDPOINTS = GatewayGroup(FLEET).key, GatewayEndpoints(FLEET, HERE).key
AGGREGATE = ResourceId(names.CLUSTER, names.aggregate_cluster((POOL.id, SPARE.id)))
ROUTES, GROUPS = resource_ids.GATEWAY_ROUTES, resource_ids.USER_GROUPS
OF_POOL = {resource_ids.pool_cluster(POOL), ROUTES, resource_ids.gateway_listener(LISTENER)}


def declared(*changes: Change) -> dict[str, set[ResourceId]]:
    found = affected(changes, WORLD, WORLD.changed(2, changes))
    assert not any(each.judged for each in found.values())
    return {key: each.declared for key, each in found.items()}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (put(replace(LISTENER, port=81)), {GATEWAYS: {resource_ids.gateway_listener(LISTENER)}}),
        (put(replace(CERTIFICATE, key="new")), {GATEWAYS: {resource_ids.certificate_secret(CERTIFICATE.id)}}),
        (put(replace(USER, name="bob")), {GATEWAYS: {GROUPS, USERS[USER.shard], USERS[user_shard("bob")]}}),
        (put(replace(USER, enabled=False)), {GATEWAYS: {GROUPS, USERS[USER.shard]}}),
        (put(replace(ROUTE, match=Match())), {GATEWAYS: {ROUTES, GROUPS}}),
        (put(replace(ROUTE, action=ToPools(((POOL.id, 1),)))), {GATEWAYS: {ROUTES, AGGREGATE}}),
        (
            put(replace(EXIT, state=ExitState.LOST)),
            {ExitOverlay(EXIT.id).key: {resource_ids.EXIT_LISTENER}, ENDPOINTS: {resource_ids.pool_endpoints(POOL)}},
        ),
        (
            put(replace(POOL, name="new")),
            {
                GATEWAYS: OF_POOL,
                ENDPOINTS: {resource_ids.pool_endpoints(POOL)},
                ExitGroup(POOL.id).key: {resource_ids.EXIT_ROUTES, resource_ids.EXIT_TARGETS},
                ParentProxyGroup(POOL.id).key: {resource_ids.PARENT_ROUTES},
            },
        ),
        (put(replace(GATEWAY, locality=None)), {}),
        (put(Fleet(FLEET, "renamed")), {}),
    ],
    ids=lambda each: each.kind.value if isinstance(each, Change) else "",
)
def test_change_affects_these_resources(change, expected):
    assert declared(change) == expected


TRACED = put(Fleet(FLEET, "one", Tracing(0.5)))
LISTENERS = {
    GATEWAYS: {ROUTES, resource_ids.gateway_listener(LISTENER)},
    ExitOverlay(EXIT.id).key: {resource_ids.EXIT_LISTENER},
}


@pytest.mark.parametrize(
    ("tracing", "expected"),
    [
        (Tracing(0.5), {}),
        (Tracing(0.1), {GATEWAYS: {ROUTES}}),
        (Tracing(0.5, targets=True), LISTENERS),
        (None, LISTENERS),
    ],
)
def test_another_share_of_traces_affects_no_listener(tracing, expected):
    world, change = WORLD.changed(2, [TRACED]), put(Fleet(FLEET, "one", tracing))
    found = affected([change], world, world.changed(3, [change]))
    assert {key: each.declared for key, each in found.items()} == expected
    assert declared(TRACED) == LISTENERS


def test_pool_moved_to_a_fleet_that_traces_affects_listeners_of_its_exits():
    world, change = WORLD.changed(2, [TRACED]), put(replace(POOL, fleet_id=OTHER_FLEET))
    found = affected([change], world, world.changed(3, [change]))
    assert found[ExitOverlay(EXIT.id).key].declared == {resource_ids.EXIT_LISTENER}


def test_user_in_unmatched_group_affects_one_part_of_the_users():
    stranger = User(UUID(int=42), FLEET, "carol", "guests")
    assert declared(put(stranger)) == {GATEWAYS: {USERS[stranger.shard]}}


def test_pool_moved_to_another_fleet_affects_the_gateways_of_both():
    found = declared(put(replace(POOL, fleet_id=OTHER_FLEET)))
    assert {resource_ids.pool_cluster(POOL), AGGREGATE} <= found[GATEWAYS]
    assert resource_ids.pool_cluster(POOL) in found[GatewayGroup(OTHER_FLEET).key]
    assert ExitOverlay(EXIT.id).key not in found  # its listener names no fleet


def test_removed_entity_affects_its_former_resources():
    found = declared(Change(Kind.EXIT, EXIT.id, None), Change(Kind.PROXY, EXIT.id, None))
    assert found == {
        ExitOverlay(EXIT.id).key: {resource_ids.EXIT_LISTENER},
        ENDPOINTS: {resource_ids.pool_endpoints(POOL)},
    }


def test_acceptance_judges_its_resource_and_translates_nothing():
    key = ResourceKey(GATEWAYS, names.ROUTE, names.GATEWAY_ROUTES)
    changes = [put(Accepted(key, "v1", b""))]
    ((scope, found),) = affected(changes, WORLD, WORLD.changed(2, changes)).items()
    assert (scope, found.declared, found.judged) == (GATEWAYS, set(), {ROUTES})


def test_approval_reaches_guarded_scopes_without_resources():
    found = declared(put(Approval(FLEET)))
    pools = {each(pool.id).key for pool in (POOL, SPARE) for each in (ExitGroup, ParentProxyGroup)}
    assert found == {key: set() for key in {GATEWAYS, *pools}}
