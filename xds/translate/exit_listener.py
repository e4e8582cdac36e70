"""LDS for exits: the listener for the fleet's gateways, inside the tunnel's network namespace."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

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

from model.entities import Exit, Parent, Tracing
from xds.translate import names
from xds.translate.admitted_gateways import admission_filter
from xds.translate.encoding import encode, overwrite, pack
from xds.translate.exit_targets import dns_cache
from xds.translate.forbidden_targets import sample_egress_address
from xds.translate.http import (
    HANDSHAKE_TIMEOUT,
    KEEPALIVE,
    NO_TRACING,
    connection_manager,
    exit_replies,
    http_filter,
    tcp_address,
)
from xds.translate.open_requests import report_open_requests
from xds.translate.parent_failures import parent_filters, parent_replies
from xds.translate.spans import trace_exit
from xds.translate.template import ANY_PARENT, EXIT_FIELDS
from xds.translate.tls import from_gateways
from xds.wire import template_pb2 as wire

_POOL: Final = f"%METADATA(ROUTE:{names.METADATA}:{names.POOL_METADATA})%"
_NOT_REACHED: Final = f"exitplane: the exit of pool {_POOL} could not reach the target (%RESPONSE_CODE_DETAILS%)\n"


def translate_exit_listener(exit_: Exit, tracing: Tracing | None = None) -> wire.Listener:
    """Build the listener of an exit from a template."""
    parent = exit_.parent and (
        replace(exit_.parent, username=None, password=None) if exit_.parent.is_named else ANY_PARENT
    )
    egress_address = None if parent else sample_egress_address(exit_.egress_address)
    template = _template(egress_address, parent, tracing, EXIT_FIELDS.read(exit_))
    listener = wire.Listener.FromString(template)
    listener.address.socket_address.address = exit_.bind_address
    listener.address.socket_address.port_value = exit_.port
    return listener


@lru_cache(maxsize=256)
def _template(
    egress_address: str | None, parent: Parent | None, tracing: Tracing | None, values: tuple[Any, ...]
) -> bytes:
    sample = replace(EXIT_FIELDS.make_sample(values), egress_address=egress_address, parent=parent)
    return encode(define_exit_listener(sample, tracing))


def define_exit_listener(exit_: Exit, tracing: Tracing | None = None) -> Listener:
    """Build the listener of an exit: requests from the gateways of its fleet, and health checks by the state that its agent sets.

    Requests come over HTTP/1.1, on a connection for each tunnel: when a target closes a tunnel, Envoy resets an HTTP/2 stream and
    drops its buffer, but writes a connection's buffer to the end (docs/architecture.md#whole-before-fast). Health checks come over
    HTTP/2. The admission comes first, so that no gateway finds an exit healthy before the exit admits its requests.
    """
    manager = connection_manager(
        names.EXIT_LISTENER,
        codec=HttpConnectionManagerCodecType.AUTO,
        routes=names.PARENT_ROUTES if exit_.parent else names.EXIT_ROUTES,
        filters=[
            admission_filter(),
            http_filter("envoy.filters.http.health_check", _health()),
            *(parent_filters(exit_.parent) if exit_.parent else [_resolver(exit_.egress_address)]),
        ],
        local_replies=parent_replies() if exit_.parent else _replies(),
        scheme="http",
        tracing=trace_exit(tracing) if tracing else NO_TRACING,
    )
    report_open_requests(manager)
    chain = Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))
    return Listener(
        name=names.EXIT_LISTENER,
        address=tcp_address(exit_.bind_address, exit_.port),
        filter_chains=[
            FilterChain(
                filters=[chain],
                transport_socket=from_gateways(),
                transport_socket_connect_timeout=HANDSHAKE_TIMEOUT,
            )
        ],
        per_connection_buffer_limit_bytes=1024 * 1024,
        tcp_keepalive=KEEPALIVE,
    )


def _resolver(egress_address: str | None) -> HttpFilter:
    return http_filter(
        "envoy.filters.http.dynamic_forward_proxy", FilterConfig(dns_cache_config=dns_cache(egress_address))
    )


def _replies() -> LocalReplyConfig:
    status = 'exitplane-exit; error=destination_unavailable; details="%RESPONSE_CODE_DETAILS%"'
    return exit_replies(
        _NOT_REACHED, overwrite(names.FAILURE_HEADER, "%RESPONSE_CODE_DETAILS%"), overwrite("proxy-status", status)
    )


def _health() -> HealthCheck:
    """Answer health checks by Envoy itself: 503 with `x-envoy-immediate-health-check-fail` once the agent made it fail."""
    request = {":path": names.HEALTH_PATH, ":authority": names.HEALTH_HOST}
    return HealthCheck(
        pass_through_mode=False,
        headers=[HeaderMatcher(name=name, string_match=StringMatcher(exact=value)) for name, value in request.items()],
    )
