"""The HTTP settings that gateways and exits share: connection managers, HTTP/2, timeouts, local replies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

from betterproto2 import Message
from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    HeaderFilter,
    OrFilter,
    ResponseFlagFilter,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    AggregatedConfigSource,
    ApiVersion,
    ConfigSource,
    DataSource,
    Http2ProtocolOptions,
    KeepaliveSettings,
    SchemeHeaderTransformation,
    SocketAddress,
    SubstitutionFormatString,
    TcpKeepalive,
)
from envoy_data_plane.envoy.config.core.v3 import HeaderValueOption as Header
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    HttpConnectionManagerServerHeaderTransformation,
    HttpConnectionManagerUpgradeConfig,
    HttpFilter,
    LocalReplyConfig,
    Rds,
    ResponseMapper,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from xds.translate.encoding import pack

STREAM_WINDOW_BYTES: Final = 256 * 1024
CONNECTION_WINDOW_BYTES: Final = 2**31 - 1
"""Default windows would let two tunnels that are not read fill the window of their client's connection, and stall its others."""
TUNNEL_IDLE: Final = timedelta(hours=1)
"""Time without traffic after which a tunnel is closed."""
HEADERS_TIMEOUT: Final = timedelta(seconds=15)
HANDSHAKE_TIMEOUT: Final = timedelta(seconds=10)
"""Time for a TLS handshake, so that strangers hold no connections of a proxy open."""
NO_DELAYED_CLOSE: Final = timedelta(0)
"""A finished connection is closed as soon as all of it is written, however long that takes.

Any other value delays the end of a tunnel (by default a second), and drops the rest of the data of a client that reads nothing
for as long.
"""
KEEPALIVE: Final = TcpKeepalive(keepalive_time=10, keepalive_interval=1, keepalive_probes=5)
"""TCP keepalive in place of HTTP/2 pings, with the same time limit: a silent tunnel ends when its peer vanishes."""
UNREACHED_FLAGS: Final = (
    "UH",
    "UF",
    "UO",
    "NR",
    "NC",
    "URX",
    "UC",
    "LR",
    "UR",
    "UT",
    "DF",
    "DO",
    "UPE",
    "NFCF",
    "DT",
    "SI",
)
"""Response flags of local replies for an upstream that was not reached (access log, `%RESPONSE_FLAGS%`)."""

UNSENT_FLAGS: Final = ("UH", "UF", "UO", "NR", "NC", "DF", "DO")
"""The flags among them that say that nothing was sent upstream."""

PROXY_HEADERS: Final = (
    "proxy-authorization",
    "proxy-connection",
    "forwarded",
    "x-forwarded-proto",
    "x-envoy-external-address",
    "x-envoy-internal",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-attempt-count",
    "x-envoy-original-path",
    "x-envoy-downstream-service-cluster",
    "x-envoy-decorator-operation",
    "x-request-id",
)
"""Headers that a proxy adds or that are meant for proxies. They are removed before a request goes to its target."""


NO_TRACING: Final[Mapping[str, Any]] = MappingProxyType({"generate_request_id": False})
"""The fields of a connection manager that traces nothing."""


def http2_options(*, max_concurrent_streams: int = 2**31 - 1) -> Http2ProtocolOptions:
    """Build HTTP/2 options for tunnels: CONNECT allowed, windows that a slow reader cannot exhaust, pings for dead peers."""
    return Http2ProtocolOptions(
        allow_connect=True,
        max_concurrent_streams=max_concurrent_streams,
        initial_stream_window_size=STREAM_WINDOW_BYTES,
        initial_connection_window_size=CONNECTION_WINDOW_BYTES,
        connection_keepalive=KeepaliveSettings(interval=timedelta(seconds=10), timeout=timedelta(seconds=5)),
    )


def connection_manager(
    name: str,
    *,
    codec: HttpConnectionManagerCodecType,
    routes: str,
    filters: list[HttpFilter],
    local_replies: LocalReplyConfig,
    scheme: str | None = None,
    tracing: Mapping[str, Any] = NO_TRACING,
) -> HttpConnectionManager:
    """Build a connection manager that forwards requests unchanged.

    `scheme` overrides the scheme of all requests: HTTP/1.1 would take it from the connection, which may be TLS. `tracing` are the
    fields by which it traces (spans.py).
    """
    return HttpConnectionManager(
        stat_prefix=name,
        codec_type=codec,
        rds=Rds(route_config_name=routes, config_source=ads_source()),
        http_filters=[*filters, http_filter("envoy.filters.http.router", Router(suppress_envoy_headers=True))],
        http2_protocol_options=http2_options(),
        upgrade_configs=[
            HttpConnectionManagerUpgradeConfig(upgrade_type="CONNECT"),
            HttpConnectionManagerUpgradeConfig(upgrade_type="websocket"),
        ],
        server_header_transformation=HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        use_remote_address=True,
        skip_xff_append=True,
        normalize_path=False,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.KEEP_UNCHANGED,
        stream_error_on_invalid_http_message=True,
        stream_idle_timeout=TUNNEL_IDLE,
        request_headers_timeout=HEADERS_TIMEOUT,
        delayed_close_timeout=NO_DELAYED_CLOSE,
        local_reply_config=local_replies,
        scheme_header_transformation=SchemeHeaderTransformation(scheme_to_overwrite=scheme) if scheme else None,
        **{**NO_TRACING, **tracing},
    )


def local_replies(text: str, *headers: Header, before: Sequence[ResponseMapper] = ()) -> LocalReplyConfig:
    """Replace local replies for an unreached upstream by 503 with `text`, in which Envoy's format operators apply.

    The replies that `before` replaces are others.
    """
    return LocalReplyConfig(mappers=[*before, _reply(_flagged(UNREACHED_FLAGS), text, headers)])


def exit_replies(text: str, failure: Header, *headers: Header) -> LocalReplyConfig:
    """Build an exit's local replies, with the header `failure` where a gateway may send the request to another exit.

    It may if nothing was sent upstream, and a CONNECT in any case: what a client sends follows only after its answer. Everything
    else may have reached the target, which could have it repeated by closing the connection.
    """
    is_tunnel = AccessLogFilter(
        header_filter=HeaderFilter(
            header=HeaderMatcher(name=":method", string_match=StringMatcher(exact="CONNECT")),
        )
    )
    unsent = AccessLogFilter(or_filter=OrFilter(filters=[_flagged(UNSENT_FLAGS), is_tunnel]))
    unreached = _flagged(UNREACHED_FLAGS)
    repeatable = AccessLogFilter(and_filter=AndFilter(filters=[unreached, unsent]))
    return LocalReplyConfig(mappers=[_reply(repeatable, text, (failure, *headers)), _reply(unreached, text, headers)])


def _flagged(flags: Sequence[str]) -> AccessLogFilter:
    return AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=list(flags)))


def _reply(replies: AccessLogFilter, text: str, headers: Iterable[Header]) -> ResponseMapper:
    body = SubstitutionFormatString(text_format_source=DataSource(inline_string=text), content_type="text/plain")
    return ResponseMapper(filter=replies, status_code=503, body_format_override=body, headers_to_add=list(headers))


def http_filter(name: str, config: Message) -> HttpFilter:
    """Build an HTTP filter with its typed configuration."""
    return HttpFilter(name=name, typed_config=pack(config))


def ads_source() -> ConfigSource:
    """Build a source of configuration: the ADS stream."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def tcp_address(address: str, port: int) -> Address:
    """Build a TCP address."""
    return Address(socket_address=SocketAddress(address=address, port_value=port))
