"""RDS for exits with a parent: every request goes to the parent."""

from __future__ import annotations

from datetime import timedelta
from functools import cache

from envoy_data_plane.envoy.config.route.v3 import (
    Route,
    RouteAction,
    RouteActionUpgradeConfig,
    RouteConfiguration,
    RouteMatch,
    RouteMatchConnectMatcher,
    VirtualHost,
)

from model.entities import Pool
from xds.translate import names
from xds.translate.encoding import encode, metadata
from xds.translate.http import PROXY_HEADERS
from xds.translate.spans import HIDDEN_CONTEXT, restoring_route
from xds.translate.template import ANY_POOL, set_pool_name
from xds.wire import template_pb2 as wire


def translate_parent_routes(pool: Pool) -> wire.RouteConfiguration:
    """Build the routes of a pool's exits that have a parent from a template."""
    configuration = wire.RouteConfiguration.FromString(_template())
    for route in configuration.virtual_hosts[0].routes:
        set_pool_name(route, pool.name)
    return configuration


@cache
def _template() -> bytes:
    return encode(define_parent_routes(ANY_POOL.name))


def define_parent_routes(pool_name: str) -> RouteConfiguration:
    """Build the routes of exits with a parent: forward CONNECT, which the parent ends, and plain HTTP."""
    tunnel = RouteAction(
        cluster=names.PARENT,
        timeout=timedelta(0),
        upgrade_configs=[RouteActionUpgradeConfig(upgrade_type="CONNECT")],
    )
    plain = RouteAction(cluster=names.PARENT, timeout=timedelta(0))
    pool = metadata(names.METADATA, **{names.POOL_METADATA: pool_name})
    routes = [
        Route(match=RouteMatch(connect_matcher=RouteMatchConnectMatcher()), route=tunnel, metadata=pool),
        Route(match=RouteMatch(prefix="/"), route=plain, metadata=pool),
    ]
    routes = [each for route in routes for each in (restoring_route(route), route)]
    return RouteConfiguration(
        name=names.PARENT_ROUTES,
        virtual_hosts=[VirtualHost(name="any", domains=["*"], routes=routes)],
        request_headers_to_remove=[*PROXY_HEADERS, *HIDDEN_CONTEXT],
    )
