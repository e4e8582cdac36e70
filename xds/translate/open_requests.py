"""The report of an exit's Envoy to its agent: the requests that are open, and whose connections they have.

The agent ends those of gateways that the exit does not admit (docs/decisions/0052-removed-gateways-lose-their-connections.md).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog, AccessLogFilter, LogTypeFilter
from envoy_data_plane.envoy.config.core.v3 import ApiVersion, GrpcService, GrpcServiceEnvoyGrpc
from envoy_data_plane.envoy.data.accesslog.v3 import AccessLogType
from envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 import CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerHcmAccessLogOptions,
)

from xds.translate import names
from xds.translate.encoding import pack

PERIOD: Final = timedelta(seconds=10)
"""The time between two entries of a request that is open. Shorter requests have none."""


def report_open_requests(manager: HttpConnectionManager) -> None:
    """Have a connection manager report its open requests to the agent. Without an agent, Envoy drops the entries."""
    config = CommonGrpcAccessLogConfig(
        log_name="open-requests",
        grpc_service=GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=names.AGENT)),
        transport_api_version=ApiVersion.V3,
    )
    manager.access_log = [
        AccessLog(
            name="envoy.access_loggers.http_grpc",
            filter=AccessLogFilter(log_type_filter=LogTypeFilter(types=[AccessLogType.DownstreamPeriodic])),
            typed_config=pack(HttpGrpcAccessLogConfig(common_config=config)),
        )
    ]
    manager.access_log_options = HttpConnectionManagerHcmAccessLogOptions(access_log_flush_interval=PERIOD)
