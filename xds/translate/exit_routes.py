"""RDS for exits: every request goes to the target that it names."""

from __future__ import annotations

from datetime import timedelta
from functools import cache

from envoy_data_plane.envoy.config.route.v3 import (
    Route,
    RouteAction,
    RouteActionUpgradeConfig,
    RouteActionUpgradeConfigConnectConfig,
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


def translate_exit_routes(pool: Pool) -> wire.RouteConfiguration:
    """Build the routes of a pool's exits from a template."""
    configuration = wire.RouteConfiguration.FromString(_template())
    for route in configuration.virtual_hosts[0].routes:
        set_pool_name(route, pool.name)
    return configuration


@cache
def _template() -> bytes:
    return encode(define_exit_routes(ANY_POOL.name))


def define_exit_routes(pool_name: str) -> RouteConfiguration:
    """Build the routes of a pool's exits: end CONNECT here, forward plain HTTP. Error texts quote the pool's name."""
    tunnel = RouteAction(
        cluster=names.TARGETS,
        timeout=timedelta(0),
        upgrade_configs=[
            RouteActionUpgradeConfig(upgrade_type="CONNECT", connect_config=RouteActionUpgradeConfigConnectConfig())
        ],
    )
    plain = RouteAction(cluster=names.TARGETS, timeout=timedelta(0))
    pool = metadata(names.METADATA, **{names.POOL_METADATA: pool_name})
    any_plain = Route(match=RouteMatch(prefix="/"), route=plain, metadata=pool)
    routes = [
        Route(match=RouteMatch(connect_matcher=RouteMatchConnectMatcher()), route=tunnel, metadata=pool),
        restoring_route(any_plain),
        any_plain,
    ]
    return RouteConfiguration(
        name=names.EXIT_ROUTES,
        virtual_hosts=[VirtualHost(name="any", domains=["*"], routes=routes)],
        request_headers_to_remove=[*PROXY_HEADERS, *HIDDEN_CONTEXT],
    )
