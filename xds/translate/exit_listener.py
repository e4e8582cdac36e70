"""LDS for exits: where the gateways of the fleet come in, inside the tunnel's network namespace."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final
from uuid import UUID

from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.filters.http.dynamic_forward_proxy.v3 import FilterConfig
from envoy_data_plane.envoy.extensions.filters.http.health_check.v3 import HealthCheck
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManagerCodecType,
    HttpFilter,
    LocalReplyConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from model.entities import Exit
from xds.translate import names
from xds.translate.encoding import encode, overwrite, pack
from xds.translate.exit_targets import dns_cache
from xds.translate.forbidden_targets import LOOPBACK, stays_here
from xds.translate.http import LIVELY, connection_manager, http_filter, local_replies, socket
from xds.translate.parent_failures import parent_filter, parent_replies
from xds.translate.template import ANY_EXIT, ANY_PARENT
from xds.translate.tls import HTTP1, HTTP2, from_gateways
from xds.wire import template_pb2 as wire

_POOL: Final = f"%METADATA(ROUTE:{names.METADATA}:{names.POOL_METADATA})%"
_NOT_REACHED: Final = f"exitplane: the exit of pool {_POOL} could not reach the target (%RESPONSE_CODE_DETAILS%)\n"


def translate_exit_listener(exit_: Exit, fleet_id: UUID) -> wire.Listener:
    """The listener of one exit, for the gateways of `fleet_id`."""
    has_parent = exit_.parent is not None
    here = stays_here(exit_.egress_address) and not has_parent
    listener = wire.Listener.FromString(_any_exit_listener(fleet_id, stays_here=here, has_parent=has_parent))
    listener.address.socket_address.address = exit_.bind_address
    listener.address.socket_address.port_value = exit_.port
    return listener


@lru_cache(maxsize=256)
def _any_exit_listener(fleet_id: UUID, *, stays_here: bool, has_parent: bool) -> bytes:
    egress_address, parent = LOOPBACK if stays_here else None, ANY_PARENT if has_parent else None
    return encode(define_exit_listener(replace(ANY_EXIT, egress_address=egress_address, parent=parent), fleet_id))


def define_exit_listener(exit_: Exit, fleet_id: UUID) -> Listener:
    """The listener of one exit: requests from the gateways of `fleet_id`, and the health that its agent sets.

    Requests come over HTTP/2. With a parent they come over HTTP/1.1, a connection for each tunnel: when the parent closes a
    tunnel, Envoy resets it, and with a stream of HTTP/2 goes what waits in it, while a connection is written to its end.
    """
    manager = connection_manager(
        names.EXIT_LISTENER,
        codec=HttpConnectionManagerCodecType.AUTO if exit_.parent else HttpConnectionManagerCodecType.HTTP2,
        routes=names.PARENT_ROUTES if exit_.parent else names.EXIT_ROUTES,
        filters=[
            http_filter("envoy.filters.http.health_check", _health()),
            parent_filter() if exit_.parent else _resolver(exit_.egress_address),
        ],
        local_replies=parent_replies() if exit_.parent else _replies(),
        scheme="http" if exit_.parent else None,
    )
    chain = Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))
    from_them = from_gateways(fleet_id, HTTP1 if exit_.parent else HTTP2)
    return Listener(
        name=names.EXIT_LISTENER,
        address=socket(exit_.bind_address, exit_.port),
        filter_chains=[FilterChain(filters=[chain], transport_socket=from_them)],
        per_connection_buffer_limit_bytes=1024 * 1024,
        tcp_keepalive=LIVELY if exit_.parent else None,
    )


def _resolver(egress_address: str | None) -> HttpFilter:
    return http_filter(
        "envoy.filters.http.dynamic_forward_proxy", FilterConfig(dns_cache_config=dns_cache(egress_address))
    )


def _replies() -> LocalReplyConfig:
    status = 'exitplane-exit; error=destination_unavailable; details="%RESPONSE_CODE_DETAILS%"'
    return local_replies(
        _NOT_REACHED, overwrite(names.FAILURE_HEADER, "%RESPONSE_CODE_DETAILS%"), overwrite("proxy-status", status)
    )


def _health() -> HealthCheck:
    """Answered by Envoy itself; 503, and `x-envoy-immediate-health-check-fail`, once the agent has failed it."""
    asked = {":path": names.HEALTH_PATH, ":authority": names.HEALTH_HOST}
    return HealthCheck(
        pass_through_mode=False,
        headers=[HeaderMatcher(name=name, string_match=StringMatcher(exact=value)) for name, value in asked.items()],
    )
