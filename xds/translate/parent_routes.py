"""RDS for exits with a parent: everything goes on to that, but what is forbidden."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any, Final

from envoy_data_plane.envoy.config.core.v3 import DataSource, Metadata
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    HeaderMatcher,
    Route,
    RouteAction,
    RouteActionUpgradeConfig,
    RouteConfiguration,
    RouteMatch,
    RouteMatchConnectMatcher,
    VirtualHost,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from model.world import Pool
from xds.translate import names
from xds.translate.encoding import encode, metadata, overwrite
from xds.translate.http import PROXY_HEADERS
from xds.translate.literal_targets import ALLOWED, FORBIDDEN
from xds.translate.template import ANY_POOL, name_pool
from xds.wire import template_pb2 as wire

DENIED: Final = "address_denied"
"""What the failure of a target is called that exits do not go to, as exits without a parent have it."""
_REFUSAL: Final = f"exitplane: exits do not go to hosts of private networks, nor to what is no host name ({DENIED})\n"


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
    """CONNECT is sent on as it is, for the parent to end; plain HTTP too."""
    pool_name = metadata(names.METADATA, **{names.POOL_METADATA: pool.name})
    tunnel = RouteAction(
        cluster=names.PARENT,
        timeout=timedelta(0),
        upgrade_configs=[RouteActionUpgradeConfig(upgrade_type="CONNECT")],
    )
    plain = RouteAction(cluster=names.PARENT, timeout=timedelta(0))
    allowed = _authority(ALLOWED)
    routes = [
        *_refusals([_authority(FORBIDDEN)], pool_name),
        Route(match=_tunnels([allowed]), route=tunnel, metadata=pool_name),
        Route(match=_plain_http([allowed]), route=plain, metadata=pool_name),
        *_refusals([], pool_name),
    ]
    return RouteConfiguration(
        name=names.PARENT_ROUTES,
        virtual_hosts=[VirtualHost(name="any", domains=["*"], routes=routes)],
        request_headers_to_remove=list(PROXY_HEADERS),
    )


def _refusals(headers: list[HeaderMatcher], pool_name: Metadata) -> Sequence[Route]:
    """The target's failure, not the exit's: no other exit would go there."""
    reply: Any = {
        "direct_response": DirectResponseAction(status=503, body=DataSource(inline_string=_REFUSAL)),
        "response_headers_to_add": [
            overwrite(names.FAILURE_HEADER, DENIED),
            overwrite("proxy-status", f'exitplane-exit; error=destination_ip_prohibited; details="{DENIED}"'),
        ],
        "metadata": pool_name,
    }
    return [Route(match=match, **reply) for match in (_tunnels(headers), _plain_http(headers))]


def _tunnels(headers: list[HeaderMatcher]) -> RouteMatch:
    return RouteMatch(connect_matcher=RouteMatchConnectMatcher(), headers=headers)


def _plain_http(headers: list[HeaderMatcher]) -> RouteMatch:
    return RouteMatch(prefix="/", headers=headers)


def _authority(pattern: str) -> HeaderMatcher:
    return HeaderMatcher(name=":authority", string_match=StringMatcher(safe_regex=RegexMatcher(regex=pattern)))
