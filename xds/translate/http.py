"""What the HTTP connection managers and connections of both roles have in common."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from betterproto2 import Message
from envoy_data_plane.envoy.config.accesslog.v3 import AccessLogFilter, ResponseFlagFilter
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

from xds.translate.encoding import pack

STREAM_WINDOW_BYTES: Final = 256 * 1024
CONNECTION_WINDOW_BYTES: Final = 2**31 - 1
"""With default windows, two clients that stop reading freeze every tunnel of an exit: they fill the connection's window."""
TUNNEL_IDLE: Final = timedelta(hours=1)
"""How long a tunnel may be silent."""
HEADERS_TIMEOUT: Final = timedelta(seconds=15)
NO_DELAYED_CLOSE: Final = timedelta(0)
"""A connection that is at its end is closed as soon as all of it is written, however long that takes.

Any other time is two at once: how late the end of a tunnel reaches the client (by default a second), and after how long without
progress what a slow client has not taken yet is thrown away.
"""
LIVELY: Final = TcpKeepalive(keepalive_time=10, keepalive_interval=1, keepalive_probes=5)
"""What HTTP/1.1 has instead of the pings of HTTP/2, within the same time: silent tunnels whose other end vanished end too."""
UNREACHED: Final = ("UH", "UF", "UO", "NR", "NC", "URX", "UC", "LR", "UR", "UT", "DF", "DO", "UPE", "NFCF", "DT", "SI")
"""Response flags of replies that the proxy makes itself because it reached nobody (access log, `%RESPONSE_FLAGS%`)."""

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
"""Removed on the way to the target: what a proxy adds, and what is meant for proxies."""


def http2_options() -> Http2ProtocolOptions:
    """HTTP/2 as it carries tunnels: CONNECT allowed, windows that one slow reader cannot exhaust, dead peers noticed."""
    return Http2ProtocolOptions(
        allow_connect=True,
        max_concurrent_streams=2**31 - 1,
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
) -> HttpConnectionManager:
    """A connection manager that forwards what it is given and adds nothing of its own.

    `scheme` is what all requests are for, where they cannot say it: HTTP/1.1 leaves it to the connection, which may be TLS.
    """
    return HttpConnectionManager(
        stat_prefix=name,
        codec_type=codec,
        rds=Rds(route_config_name=routes, config_source=over_ads()),
        http_filters=[*filters, http_filter("envoy.filters.http.router", Router(suppress_envoy_headers=True))],
        http2_protocol_options=http2_options(),
        upgrade_configs=[
            HttpConnectionManagerUpgradeConfig(upgrade_type="CONNECT"),
            HttpConnectionManagerUpgradeConfig(upgrade_type="websocket"),
        ],
        server_header_transformation=HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        generate_request_id=False,
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
    )


def local_replies(text: str, *headers: Header) -> LocalReplyConfig:
    """Replace the replies of a proxy that reached nobody by 503 with `text` (Envoy's format operators apply)."""
    body = SubstitutionFormatString(text_format_source=DataSource(inline_string=text), content_type="text/plain")
    reached_nobody = AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=list(UNREACHED)))
    mapper = ResponseMapper(
        filter=reached_nobody, status_code=503, body_format_override=body, headers_to_add=list(headers)
    )
    return LocalReplyConfig(mappers=[mapper])


def http_filter(name: str, config: Message) -> HttpFilter:
    """An HTTP filter with its typed configuration."""
    return HttpFilter(name=name, typed_config=pack(config))


def over_ads() -> ConfigSource:
    """A source of configuration: the aggregated stream."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def socket(address: str, port: int) -> Address:
    """A TCP address."""
    return Address(socket_address=SocketAddress(address=address, port_value=port))
