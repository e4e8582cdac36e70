"""CDS for gateways: the cluster of each pool."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCommonLbConfig,
    ClusterDiscoveryType,
    ClusterEdsClusterConfig,
    ClusterLbPolicy,
    ClusterPreconnectPolicy,
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
from envoy_data_plane.google.protobuf import Any as PackedMessage

from model.entities import Policy, Pool, Resilience
from xds.translate import names
from xds.translate.encoding import encode, pack
from xds.translate.http import KEEPALIVE, ads_source, http2_options
from xds.translate.template import POOL_FIELDS
from xds.translate.tls import HTTP2, to_exits
from xds.wire import template_pb2 as wire

HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
CONNECT_TIMEOUT: Final = timedelta(seconds=3)
_POLICIES: Final[Mapping[Policy, ClusterLbPolicy]] = {
    Policy.LEAST_REQUEST: ClusterLbPolicy.LEAST_REQUEST,
    Policy.ROUND_ROBIN: ClusterLbPolicy.ROUND_ROBIN,
    Policy.RANDOM: ClusterLbPolicy.RANDOM,
    # hashes the session (route_actions.py) onto a ring of addresses: when an exit goes, only its own sessions move
    Policy.SESSION: ClusterLbPolicy.RING_HASH,
}
UNBOUNDED: Final = 1_000_000
"""The overload manager bounds tunnels. Envoy's default here would refuse tunnel 1,025."""

PRECONNECT_RATIO: Final = 1.5
"""Connections that a gateway opens to an exit for each request, rounded up: the next tunnel finds one that is ready.

They are never more than half of the requests that are open at an exit, and they end after IDLE_TIMEOUT.
"""
IDLE_TIMEOUT: Final = timedelta(seconds=30)
"""Time after which a gateway closes an unused connection to an exit.

It is shorter than the times after which an exit closes one (an hour, or the drain time of a listener that changed), so that no
request is sent on a connection that the exit is closing.
"""

HEADERS_MAX: Final = 200
HEADERS_MAX_KB: Final = 96
"""Headers of an answer that a gateway takes from an exit.

An exit takes Envoy's defaults from a target, 100 and 60 KiB, and adds some of its own. With the same limits a target could send an
answer that passes the exit alone: the gateway would see the exit fail, and send a GET to other exits.
"""


def translate_pool_cluster(pool: Pool) -> wire.Cluster:
    """Build the cluster of a pool from a template."""
    cluster = wire.Cluster.FromString(_template(POOL_FIELDS.read(pool)))
    cluster.name = names.pool_cluster(pool)
    return cluster


@lru_cache(maxsize=1_000)
def _template(values: tuple[Any, ...]) -> bytes:
    return encode(define_pool_cluster(POOL_FIELDS.make_sample(values)))


def define_pool_cluster(pool: Pool) -> Cluster:
    """Build the cluster of a pool: EDS, mutual TLS to the exits, and a connection for each request (HTTP/1.1).

    Exits of the first release speak HTTP/2 alone, with one stream on each connection. With Envoy's default limit of streams, a
    gateway would open one connection to an exit after another, because the first one might carry all requests.
    """
    either = HttpProtocolOptionsAutoHttpConfig(
        http_protocol_options=Http1ProtocolOptions(), http2_protocol_options=http2_options(max_concurrent_streams=1)
    )
    return Cluster(
        name=names.pool_cluster(pool),
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=ads_source()),
        connect_timeout=CONNECT_TIMEOUT,
        lb_policy=_POLICIES[pool.balancing.policy],
        common_lb_config=ClusterCommonLbConfig(
            # 0 by default, to fail closed: without a healthy exit, no traffic
            healthy_panic_threshold=Percent(value=pool.resilience.panic_threshold_percent),
            update_merge_window=timedelta(0),
        ),
        ignore_health_on_host_removal=True,  # an exit that left EDS is not used, even if its health checks succeed
        circuit_breakers=unbounded_circuit_breakers(),
        outlier_detection=_outlier_detection(),
        health_checks=[_health_check(pool.resilience)],
        transport_socket=to_exits(),
        preconnect_policy=ClusterPreconnectPolicy(per_upstream_preconnect_ratio=PRECONNECT_RATIO),
        upstream_connection_options=UpstreamConnectionOptions(tcp_keepalive=KEEPALIVE),
        typed_extension_protocol_options=http_options(
            HttpProtocolOptions(
                common_http_protocol_options=CommonHttpOptions(
                    idle_timeout=IDLE_TIMEOUT, max_headers_count=HEADERS_MAX, max_response_headers_kb=HEADERS_MAX_KB
                ),
                auto_config=either,
            )
        ),
    )


def unbounded_circuit_breakers() -> CircuitBreakers:
    """Build circuit breakers that never open."""
    thresholds = CircuitBreakersThresholds(
        max_connections=UNBOUNDED, max_pending_requests=UNBOUNDED, max_requests=UNBOUNDED, max_retries=UNBOUNDED
    )
    return CircuitBreakers(thresholds=[thresholds])


def http_options(options: HttpProtocolOptions) -> dict[str, PackedMessage]:
    """Pack the HTTP protocol options of a cluster."""
    return {HTTP_OPTIONS: pack(options)}


def _outlier_detection() -> OutlierDetection:
    """Count failures for Envoy's statistics, and eject no exit for them: clients could eject exits.

    A 5xx comes from the target. A tunnel that its target resets counts as a local-origin failure, like an exit that cannot be
    reached (`Router::Filter::onUpstreamReset`). Health checks find dead exits, and retries go to others meanwhile.
    """
    return OutlierDetection(
        split_external_local_origin_errors=True,
        enforcing_consecutive_local_origin_failure=0,
        enforcing_local_origin_success_rate=0,
        enforcing_consecutive_5xx=0,
        enforcing_consecutive_gateway_failure=0,
        enforcing_success_rate=0,
        enforcing_failure_percentage=0,
        enforcing_failure_percentage_local_origin=0,
    )


def _health_check(resilience: Resilience) -> HealthCheck:
    """Ask the exit whether its tunnel is up, also while there is no traffic.

    It uses HTTP/2 on a connection that stays open. Exits offer only HTTP/1.1 in ALPN, and accept HTTP/2 when it is all that the
    client offers. Exits of the first release speak nothing else.
    """
    return HealthCheck(
        timeout=timedelta(seconds=resilience.check_timeout_s),
        interval=timedelta(seconds=resilience.check_interval_s),
        no_traffic_interval=timedelta(seconds=resilience.check_interval_s),
        unhealthy_threshold=resilience.unhealthy_after,
        healthy_threshold=resilience.healthy_after,
        http_health_check=HealthCheckHttpHealthCheck(
            host=names.HEALTH_HOST, path=names.HEALTH_PATH, codec_client_type=CodecClientType.HTTP2
        ),
        tls_options=HealthCheckTlsOptions(alpn_protocols=[HTTP2]),
    )
