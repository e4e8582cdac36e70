"""RDS for exits with a parent: everything goes on to that."""

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
from xds.translate.template import ANY_POOL, name_pool
from xds.wire import template_pb2 as wire


def translate_parent_routes(pool: Pool) -> wire.RouteConfiguration:
    """The route configuration of those of a pool's exits that have a parent."""
    configuration = wire.RouteConfiguration.FromString(_any_parent_routes())
    for route in configuration.virtual_hosts[0].routes:
        name_pool(route, pool.name)
    return configuration


@cache
def _any_parent_routes() -> bytes:
    return encode(define_parent_routes(ANY_POOL))


def define_parent_routes(pool: Pool) -> RouteConfiguration:
    """CONNECT is sent on as it is, for the parent to end; plain HTTP too. The pool's name rides along as for other exits."""
    tunnel = RouteAction(
        cluster=names.PARENT,
        timeout=timedelta(0),
        upgrade_configs=[RouteActionUpgradeConfig(upgrade_type="CONNECT")],
    )
    plain = RouteAction(cluster=names.PARENT, timeout=timedelta(0))
    pool_name = metadata(names.METADATA, **{names.POOL_METADATA: pool.name})
    routes = [
        Route(match=RouteMatch(connect_matcher=RouteMatchConnectMatcher()), route=tunnel, metadata=pool_name),
        Route(match=RouteMatch(prefix="/"), route=plain, metadata=pool_name),
    ]
    return RouteConfiguration(
        name=names.PARENT_ROUTES,
        virtual_hosts=[VirtualHost(name="any", domains=["*"], routes=routes)],
        request_headers_to_remove=list(PROXY_HEADERS),
    )
