"""LDS for gateways: where clients come in.

Nothing in it names an exit, a user or a route, and a pool only where the listener defaults to it: it changes with the fleet's
listener alone, because a changed listener drains and takes its open tunnels with it
(docs/architecture.md#open-tunnels-survive-configuration).
"""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    ExtensionConfigSource,
    SocketOption,
    SocketOptionSocketState,
    SubstitutionFormatString,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, ListenerFilter
from envoy_data_plane.envoy.config.listener.v3 import Listener as ListenerResource
from envoy_data_plane.envoy.extensions.filters.common.set_filter_state.v3 import FilterStateValue
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.set_filter_state.v3 import Config as SetFilterState
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector.v3 import TlsInspector
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManagerCodecType,
    HttpFilter,
)

from model.entities import Listener, Pool
from xds.translate import names
from xds.translate.encoding import overwrite, pack
from xds.translate.http import TUNNEL_IDLE, connection_manager, http_filter, local_replies, over_ads, socket
from xds.translate.lua import quoted, read_script
from xds.translate.tls import to_clients

WISH_SCRIPT: Final = read_script("wish")
ALLOW_SCRIPT: Final = read_script("allow")
_POOL: Final = f"%METADATA(ROUTE:{names.METADATA}:{names.POOL_METADATA})%"
_NO_EXIT: Final = f"exitplane: no exit of pool {_POOL} can carry this request now (%RESPONSE_FLAGS%)\n"


def translate_gateway_listener(listener: Listener, pool: Pool | None = None) -> ListenerResource:
    """The listener that takes HTTP/1.1 and HTTP/2 clients: CONNECT, WebSocket upgrades and plain HTTP.

    `pool` is the one that it defaults to.
    """
    manager = connection_manager(
        names.GATEWAY_LISTENER,
        codec=HttpConnectionManagerCodecType.AUTO,
        routes=names.GATEWAY_ROUTES,
        filters=[
            http_filter("envoy.filters.http.lua", _script(_defaults(listener, pool) + WISH_SCRIPT)),
            _groups(),
            http_filter(names.ALLOW_FILTER, _script(ALLOW_SCRIPT)),
            http_filter("envoy.filters.http.set_filter_state", _session()),
        ],
        local_replies=local_replies(
            _NO_EXIT, overwrite("proxy-status", 'exitplane; error=destination_unavailable; details="%RESPONSE_FLAGS%"')
        ),
    )
    http = Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))
    certificate = listener.certificate_id
    tls = to_clients(names.certificate_secret(certificate)) if certificate else None
    return ListenerResource(
        name=names.gateway_listener(listener),
        address=socket(listener.address, listener.port),
        listener_filters=[_server_name_reader()] if tls else [],
        filter_chains=[FilterChain(filters=[http], transport_socket=tls)],
        per_connection_buffer_limit_bytes=1024 * 1024,
        socket_options=[_patience()],
    )


def _patience() -> SocketOption:
    """How long a client may take nothing of what waits for it: as long as a tunnel may be silent.

    The kernel sees to it (TCP_USER_TIMEOUT, which accepted sockets inherit), for Envoy itself sets no end to the last writing.
    """
    tcp, user_timeout = 6, 18  # Linux's numbers, wherever this is translated
    return SocketOption(
        description="TCP_USER_TIMEOUT",
        level=tcp,
        name=user_timeout,
        int_value=int(TUNNEL_IDLE.total_seconds() * 1000),
        state=SocketOptionSocketState.STATE_LISTENING,
    )


def _server_name_reader() -> ListenerFilter:
    """Without it, Envoy does not tell scripts which name a client dialled."""
    return ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=pack(TlsInspector()))


def _script(text: str) -> Lua:
    return Lua(default_source_code=DataSource(inline_string=text))


def _session() -> SetFilterState:
    """The session, for pools that send each to one exit (route_actions.py)."""
    periods = [(ttl, f"%DYNAMIC_METADATA({names.SESSION_STATE}:{ttl})%") for ttl in names.SESSION_TTLS]
    return SetFilterState(
        on_request_headers=[
            FilterStateValue(
                object_key=names.session_state(ttl),
                factory_key="envoy.hashable_string",
                format_string=SubstitutionFormatString(
                    text_format_source=DataSource(inline_string=text), omit_empty_values=True
                ),
                skip_if_empty=True,
            )
            for ttl, text in [(None, f"%REQ({names.SESSION})%"), *periods]
        ]
    )


def _groups() -> HttpFilter:
    """Who belongs to which group comes by a resource of its own: users change often."""
    lua = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
    return HttpFilter(
        name=names.GROUPS_FILTER, config_discovery=ExtensionConfigSource(config_source=over_ads(), type_urls=[lua])
    )


def _defaults(listener: Listener, pool: Pool | None) -> str:
    """What a client of the listener wishes that says nothing itself, as the script reads it."""
    by_name = "".join(
        f"[{quoted(server_name.lower())}]={quoted(country)},"
        for server_name, country in listener.countries_by_server_name
    )
    said = [f"countries={{{by_name}}}"]
    if pool:
        said.append(f"pool={quoted(pool.name)}")
    elif listener.country:
        said.append(f"country={quoted(listener.country)}")
    return f"local LISTENER = {{{', '.join(said)}}}\n"
