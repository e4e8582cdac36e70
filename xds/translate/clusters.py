"""CDS for gateways: a pool as a cluster."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Final

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCommonLbConfig,
    ClusterDiscoveryType,
    ClusterEdsClusterConfig,
    ClusterLbPolicy,
    OutlierDetection,
)
from envoy_data_plane.envoy.config.core.v3 import HealthCheck, HealthCheckHttpHealthCheck
from envoy_data_plane.envoy.config.core.v3 import HttpProtocolOptions as CommonHttpOptions
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.v3 import CodecClientType, Percent
from envoy_data_plane.google.protobuf import Any

from model.world import Pool
from xds.translate import names
from xds.translate.encoding import encode, pack
from xds.translate.http import http2_options, over_ads
from xds.translate.template import ANY_POOL
from xds.translate.tls import to_exits
from xds.wire import template_pb2 as wire

HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
CONNECT_TIMEOUT: Final = timedelta(seconds=3)
CHECK_EVERY: Final = timedelta(seconds=1)
UNBOUNDED: Final = 1_000_000
"""Tunnels are bounded by the overload manager; Envoy's default here would refuse tunnel 1,025."""

STREAMS_MAX: Final = 500
"""How many requests a connection to an exit carries before another takes over; its open tunnels go on to their end.

A client that is done with its tunnel ends it by a reset of its stream, and an exit's HTTP/2 (nghttp2) takes 1,000 resets on a
connection and 33 more a second: one too many, and it closes the connection with all the tunnels on it.
"""


def translate_pool_cluster(pool: Pool) -> wire.Cluster:
    """The cluster of a pool."""
    cluster = wire.Cluster.FromString(_any_pool_cluster())
    cluster.name = names.pool_cluster(pool)
    return cluster


@cache
def _any_pool_cluster() -> bytes:
    return encode(define_pool_cluster(ANY_POOL))


def define_pool_cluster(pool: Pool) -> Cluster:
    """The cluster of a pool: HTTP/2 over mutual TLS to its exits, which EDS lists."""
    http2 = HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=http2_options())
    return Cluster(
        name=names.pool_cluster(pool),
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=over_ads()),
        connect_timeout=CONNECT_TIMEOUT,
        lb_policy=ClusterLbPolicy.LEAST_REQUEST,
        common_lb_config=ClusterCommonLbConfig(
            healthy_panic_threshold=Percent(value=0),  # fail closed: no healthy exit, no traffic
            update_merge_window=timedelta(0),
        ),
        ignore_health_on_host_removal=True,  # an exit that left EDS is used no more, whatever its checks say
        circuit_breakers=unbounded(),
        outlier_detection=_outlier_detection(),
        health_checks=[_health_check()],
        transport_socket=to_exits(),
        typed_extension_protocol_options=http_options(
            HttpProtocolOptions(
                common_http_protocol_options=CommonHttpOptions(max_requests_per_connection=STREAMS_MAX),
                explicit_http_config=http2,
            )
        ),
    )


def unbounded() -> CircuitBreakers:
    """Circuit breakers that never break."""
    thresholds = CircuitBreakersThresholds(
        max_connections=UNBOUNDED, max_pending_requests=UNBOUNDED, max_requests=UNBOUNDED, max_retries=UNBOUNDED
    )
    return CircuitBreakers(thresholds=[thresholds])


def http_options(options: HttpProtocolOptions) -> dict[str, Any]:
    """How a cluster speaks HTTP."""
    return {HTTP_OPTIONS: pack(options)}


def _outlier_detection() -> OutlierDetection:
    """Eject for failures to reach the exit itself. A 5xx speaks of the target: with it a client could empty a pool."""
    return OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=3,
        enforcing_consecutive_local_origin_failure=100,
        enforcing_local_origin_success_rate=0,
        enforcing_consecutive_5xx=0,
        enforcing_consecutive_gateway_failure=0,
        enforcing_success_rate=0,
        enforcing_failure_percentage=0,
        enforcing_failure_percentage_local_origin=0,
        interval=timedelta(seconds=1),
        base_ejection_time=timedelta(seconds=5),
        max_ejection_time=timedelta(seconds=30),
        max_ejection_percent=100,
        successful_active_health_check_uneject_host=True,
    )


def _health_check() -> HealthCheck:
    """Ask the exit whether its tunnel is up, whether there is traffic or not."""
    return HealthCheck(
        timeout=timedelta(seconds=1),
        interval=CHECK_EVERY,
        no_traffic_interval=CHECK_EVERY,
        unhealthy_threshold=2,
        healthy_threshold=1,
        http_health_check=HealthCheckHttpHealthCheck(
            host=names.HEALTH_HOST, path=names.HEALTH_PATH, codec_client_type=CodecClientType.HTTP2
        ),
    )
