"""RDS for exits: everything goes to the target that it names."""

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
from xds.translate.template import ANY_POOL, name_pool
from xds.wire import template_pb2 as wire


def translate_exit_routes(pool: Pool) -> wire.RouteConfiguration:
    """The route configuration of a pool's exits."""
    configuration = wire.RouteConfiguration.FromString(_any_exit_routes())
    for route in configuration.virtual_hosts[0].routes:
        name_pool(route, pool.name)
    return configuration


@cache
def _any_exit_routes() -> bytes:
    return encode(define_exit_routes(ANY_POOL))


def define_exit_routes(pool: Pool) -> RouteConfiguration:
    """CONNECT is ended here, plain HTTP sent on. The pool's name rides along for the words of a failure."""
    tunnel = RouteAction(
        cluster=names.TARGETS,
        timeout=timedelta(0),
        upgrade_configs=[
            RouteActionUpgradeConfig(upgrade_type="CONNECT", connect_config=RouteActionUpgradeConfigConnectConfig())
        ],
    )
    plain = RouteAction(cluster=names.TARGETS, timeout=timedelta(0))
    pool_name = metadata(names.METADATA, **{names.POOL_METADATA: pool.name})
    routes = [
        Route(match=RouteMatch(connect_matcher=RouteMatchConnectMatcher()), route=tunnel, metadata=pool_name),
        Route(match=RouteMatch(prefix="/"), route=plain, metadata=pool_name),
    ]
    return RouteConfiguration(
        name=names.EXIT_ROUTES,
        virtual_hosts=[VirtualHost(name="any", domains=["*"], routes=routes)],
        request_headers_to_remove=list(PROXY_HEADERS),
    )
