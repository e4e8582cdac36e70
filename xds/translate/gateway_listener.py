"""LDS for gateways: where clients come in.

Nothing in it names a pool, an exit or a user: it changes only with the fleet's listener, because a changed listener drains
and takes its open tunnels with it (decision 9).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain
from envoy_data_plane.envoy.config.listener.v3 import Listener as ListenerResource
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManagerCodecType

from model.world import Listener
from xds.translate import names
from xds.translate.encoding import overwrite, pack
from xds.translate.http import connection_manager, http_filter, local_replies, socket

WISH_SCRIPT: Final = (Path(__file__).parents[2] / "envoy" / "wish.lua").read_text()
_POOL: Final = f"%METADATA(ROUTE:{names.METADATA}:{names.POOL_METADATA})%"
_NO_EXIT: Final = f"exitplane: no exit of pool {_POOL} can carry this request now (%RESPONSE_FLAGS%)\n"


def translate_gateway_listener(listener: Listener) -> ListenerResource:
    """The listener that takes HTTP/1.1 and HTTP/2 clients: CONNECT, WebSocket upgrades and plain HTTP."""
    wish = Lua(default_source_code=DataSource(inline_string=WISH_SCRIPT))
    manager = connection_manager(
        names.GATEWAY_LISTENER,
        codec=HttpConnectionManagerCodecType.AUTO,
        routes=names.GATEWAY_ROUTES,
        filters=[http_filter("envoy.filters.http.lua", wish)],
        local_replies=local_replies(
            _NO_EXIT, overwrite("proxy-status", 'exitplane; error=destination_unavailable; details="%RESPONSE_FLAGS%"')
        ),
    )
    chain = Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))
    return ListenerResource(
        name=names.GATEWAY_LISTENER,
        address=socket(listener.address, listener.port),
        filter_chains=[FilterChain(filters=[chain])],
        per_connection_buffer_limit_bytes=1024 * 1024,
    )
