"""CDS for gateways: a pool as a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
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
    UpstreamConnectionOptions,
)
from envoy_data_plane.envoy.config.core.v3 import (
    HealthCheck,
    HealthCheckHttpHealthCheck,
    HealthCheckTlsOptions,
    Http1ProtocolOptions,
)
from envoy_data_plane.envoy.config.core.v3 import HttpProtocolOptions as CommonHttpOptions
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsAutoHttpConfig,
)
from envoy_data_plane.envoy.type.v3 import CodecClientType, Percent
from envoy_data_plane.google.protobuf import Any

from model.entities import Balancing, Policy, Pool, Resilience
from xds.translate import names
from xds.translate.encoding import encode, pack
from xds.translate.http import LIVELY, http2_options, over_ads
from xds.translate.template import ANY_POOL
from xds.translate.tls import HTTP2, to_exits
from xds.wire import template_pb2 as wire

HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
CONNECT_TIMEOUT: Final = timedelta(seconds=3)
_POLICIES: Final[Mapping[Policy, ClusterLbPolicy]] = {
    Policy.LEAST_REQUEST: ClusterLbPolicy.LEAST_REQUEST,
    Policy.ROUND_ROBIN: ClusterLbPolicy.ROUND_ROBIN,
    Policy.RANDOM: ClusterLbPolicy.RANDOM,
    # of what the routes say (route_actions.py), around a ring of addresses: when an exit goes, only its own sessions move
    Policy.SESSION: ClusterLbPolicy.RING_HASH,
}
UNBOUNDED: Final = 1_000_000
"""Tunnels are bounded by the overload manager; Envoy's default here would refuse tunnel 1,025."""

STREAMS_MAX: Final = 500
"""How many requests a connection to an exit carries before another takes over; its open tunnels go on to their end.

A client that is done with its tunnel ends it by a reset of its stream, and an exit's HTTP/2 (nghttp2) takes 1,000 resets on a
connection and 33 more a second: one too many, and it closes the connection with all the tunnels on it.
"""


def translate_pool_cluster(pool: Pool) -> wire.Cluster:
    """The cluster of a pool."""
    cluster = wire.Cluster.FromString(_any_pool_cluster(pool.balancing, pool.resilience))
    cluster.name = names.pool_cluster(pool)
    return cluster


@lru_cache(maxsize=1_000)
def _any_pool_cluster(balancing: Balancing, resilience: Resilience) -> bytes:
    return encode(define_pool_cluster(replace(ANY_POOL, balancing=balancing, resilience=resilience)))


def define_pool_cluster(pool: Pool) -> Cluster:
    """The cluster of a pool: mutual TLS to its exits, which EDS lists, and HTTP/2 or HTTP/1.1 as each of them offers.

    It is the same whatever exits a pool has, so that an exit with a parent among others changes no cluster.
    """
    either = HttpProtocolOptionsAutoHttpConfig(
        http_protocol_options=Http1ProtocolOptions(), http2_protocol_options=http2_options()
    )
    return Cluster(
        name=names.pool_cluster(pool),
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=over_ads()),
        connect_timeout=CONNECT_TIMEOUT,
        lb_policy=_POLICIES[pool.balancing.policy],
        common_lb_config=ClusterCommonLbConfig(
            # by default 0, to fail closed: no healthy exit, no traffic
            healthy_panic_threshold=Percent(value=pool.resilience.panic_threshold_percent),
            update_merge_window=timedelta(0),
        ),
        ignore_health_on_host_removal=True,  # an exit that left EDS is used no more, whatever its checks say
        circuit_breakers=unbounded(),
        outlier_detection=_outlier_detection(pool.resilience),
        health_checks=[_health_check(pool.resilience)],
        transport_socket=to_exits(),
        upstream_connection_options=UpstreamConnectionOptions(tcp_keepalive=LIVELY),
        typed_extension_protocol_options=http_options(
            HttpProtocolOptions(
                common_http_protocol_options=CommonHttpOptions(max_requests_per_connection=STREAMS_MAX),
                auto_config=either,
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


def _outlier_detection(bears: Resilience) -> OutlierDetection:
    """Eject for failures to reach the exit itself. A 5xx speaks of the target: with it a client could empty a pool."""
    return OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=bears.failures_to_eject,
        enforcing_consecutive_local_origin_failure=100,
        enforcing_local_origin_success_rate=0,
        enforcing_consecutive_5xx=0,
        enforcing_consecutive_gateway_failure=0,
        enforcing_success_rate=0,
        enforcing_failure_percentage=0,
        enforcing_failure_percentage_local_origin=0,
        interval=timedelta(seconds=1),
        base_ejection_time=timedelta(seconds=bears.ejection_time_s),
        max_ejection_time=timedelta(seconds=bears.max_ejection_time_s),
        max_ejection_percent=bears.max_ejection_percent,
        successful_active_health_check_uneject_host=True,
    )


def _health_check(bears: Resilience) -> HealthCheck:
    """Ask the exit whether its tunnel is up, whether there is traffic or not.

    Always over HTTP/2, on a connection that stays: exits that offer HTTP/1.1 alone take it too from who says nothing else.
    """
    return HealthCheck(
        timeout=timedelta(seconds=bears.check_timeout_s),
        interval=timedelta(seconds=bears.check_interval_s),
        no_traffic_interval=timedelta(seconds=bears.check_interval_s),
        unhealthy_threshold=bears.unhealthy_after,
        healthy_threshold=bears.healthy_after,
        http_health_check=HealthCheckHttpHealthCheck(
            host=names.HEALTH_HOST, path=names.HEALTH_PATH, codec_client_type=CodecClientType.HTTP2
        ),
        tls_options=HealthCheckTlsOptions(alpn_protocols=[HTTP2]),
    )
