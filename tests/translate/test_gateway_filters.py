"""The HTTP filters of a gateway's listener: their order, their resources and their references."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager

from model.entities import Authentication, Fleet, Listener
from model.world import World, put
from xds.translate import names
from xds.translate.encoding import encode
from xds.translate.gateway_filters import ECDS_RESOURCES, GATEWAY_FILTERS, filters_of
from xds.translate.gateway_listener import translate_gateway_listener
from xds.translate.references import references
from xds.translate.resource_ids import GATEWAY_ROUTES, USER_GROUPS, USERS
from xds.translate.scopes import GatewayGroup

LISTENER = Listener(UUID(int=2), UUID(int=1), "127.0.0.1", 8080)
PRIVATE = replace(LISTENER, authentication=frozenset({Authentication.BASIC}))


@pytest.mark.parametrize("listener", [LISTENER, PRIVATE])
def test_listener_has_filters_in_declared_order(listener):
    (chain,) = translate_gateway_listener(listener).filter_chains
    manager = HttpConnectionManager.parse(chain.filters[0].typed_config.value)
    assert [each.name for each in manager.http_filters] == [
        *(each.name for each in filters_of(listener)),
        "envoy.filters.http.router",
    ]
    assert len({each.name for each in manager.http_filters}) == len(manager.http_filters)


def test_only_listeners_that_authenticate_have_the_filters_for_it():
    assert filters_of(PRIVATE) == [*GATEWAY_FILTERS]
    assert filters_of(LISTENER) == [each for each in GATEWAY_FILTERS if not each.authenticates]


@pytest.mark.parametrize(("listener", "discovered"), [(LISTENER, {USER_GROUPS}), (PRIVATE, {USER_GROUPS, *USERS})])
def test_listener_refers_to_the_references_of_its_filters(listener, discovered):
    body = encode(translate_gateway_listener(listener))
    expected = {GATEWAY_ROUTES}.union(*(each.references for each in filters_of(listener)))
    assert references(names.LISTENER, names.GATEWAY_LISTENER, body) == expected == {GATEWAY_ROUTES, *discovered}


def test_resources_of_discovered_filters_belong_to_gateways():
    world = World().changed(1, map(put, [Fleet(LISTENER.fleet_id, "demo"), LISTENER]))
    scope = GatewayGroup(LISTENER.fleet_id)
    for resource_id in ECDS_RESOURCES:
        assert resource_id in scope.resources(world)
        assert scope.translate(world, resource_id).name == resource_id.name
