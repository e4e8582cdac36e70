"""LDS for gateways: the listener that clients connect to.

It names no exit, user or route, and a pool only as the listener's default. A changed listener drains and cuts its open tunnels,
so it changes with the declared listener, and when its fleet begins or ends to trace (docs/architecture.md#open-tunnels-survive-configuration).
"""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.core.v3 import SocketOption, SocketOptionSocketState
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, ListenerFilter
from envoy_data_plane.envoy.config.listener.v3 import Listener as ListenerResource
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector.v3 import TlsInspector
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManagerCodecType

from model.entities import Listener, Pool, Tracing
from xds.translate import names
from xds.translate.encoding import overwrite, pack
from xds.translate.gateway_filters import filters_of
from xds.translate.http import (
    HANDSHAKE_TIMEOUT,
    NO_TRACING,
    TUNNEL_IDLE,
    connection_manager,
    local_replies,
    tcp_address,
)
from xds.translate.spans import trace_gateway
from xds.translate.tls import to_clients
from xds.translate.users import challenge

_POOL: Final = f"%METADATA(ROUTE:{names.METADATA}:{names.POOL_METADATA})%"
_NO_EXIT: Final = f"exitplane: no exit of pool {_POOL} can carry this request now (%RESPONSE_FLAGS%)\n"


def translate_gateway_listener(
    listener: Listener, default_pool: Pool | None = None, tracing: Tracing | None = None
) -> ListenerResource:
    """Build the listener for HTTP/1.1 and HTTP/2 clients: CONNECT, WebSocket upgrades and plain HTTP."""
    manager = connection_manager(
        names.GATEWAY_LISTENER,
        codec=HttpConnectionManagerCodecType.AUTO,
        routes=names.GATEWAY_ROUTES,
        filters=[each.build(listener, default_pool) for each in filters_of(listener)],
        local_replies=local_replies(
            _NO_EXIT,
            overwrite("proxy-status", 'exitplane; error=destination_unavailable; details="%RESPONSE_FLAGS%"'),
            before=[challenge()] if listener.authentication else [],
        ),
        tracing=trace_gateway(tracing) if tracing else NO_TRACING,
    )
    http = Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))
    tls = to_clients(_secrets(listener), listener.minimum_tls_version) if listener.certificate_id else None
    return ListenerResource(
        name=names.gateway_listener(listener),
        address=tcp_address(listener.address, listener.port),
        listener_filters=[_tls_inspector()] if tls else [],
        filter_chains=[
            FilterChain(
                filters=[http],
                transport_socket=tls,
                transport_socket_connect_timeout=HANDSHAKE_TIMEOUT if tls else None,
            )
        ],
        per_connection_buffer_limit_bytes=1024 * 1024,
        socket_options=[_user_timeout()],
    )


def _secrets(listener: Listener) -> list[str]:
    """List the secrets of a listener's certificates, the default one first."""
    default = [listener.certificate_id] if listener.certificate_id else []
    return [names.certificate_secret(each) for each in (*default, *listener.additional_certificates)]


def _user_timeout() -> SocketOption:
    """Set TCP_USER_TIMEOUT: a client that reads nothing is disconnected after as long as a tunnel may be idle.

    Accepted sockets inherit it from the listener. Envoy itself has no timeout for its last write to a client.
    """
    tcp, user_timeout = 6, 18  # Linux's numbers, wherever this is translated
    return SocketOption(
        description="TCP_USER_TIMEOUT",
        level=tcp,
        name=user_timeout,
        int_value=int(TUNNEL_IDLE.total_seconds() * 1000),
        state=SocketOptionSocketState.STATE_LISTENING,
    )


def _tls_inspector() -> ListenerFilter:
    """Let scripts read the TLS server name, which Envoy gives them only with this filter."""
    return ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=pack(TlsInspector()))
