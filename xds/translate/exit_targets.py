"""CDS for exits: the cluster that resolves a target's name inside the tunnel and dials it."""

from __future__ import annotations

from datetime import timedelta
from functools import cache

from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterCustomClusterType, ClusterLbPolicy
from envoy_data_plane.envoy.config.cluster.v3 import ClusterDnsLookupFamily as DnsLookupFamily
from envoy_data_plane.envoy.config.core.v3 import (
    BindConfig,
    Http1ProtocolOptions,
    SocketAddress,
    UpstreamHttpProtocolOptions,
)
from envoy_data_plane.envoy.config.core.v3 import HttpProtocolOptions as CommonHttpOptions
from envoy_data_plane.envoy.extensions.clusters.dynamic_forward_proxy.v3 import ClusterConfig
from envoy_data_plane.envoy.extensions.common.dynamic_forward_proxy.v3 import DnsCacheConfig
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)

from xds.translate import names
from xds.translate.clusters import http_options, unbounded_circuit_breakers
from xds.translate.dns_caches import name_cache
from xds.translate.encoding import encode, pack
from xds.translate.forbidden_targets import forbidden_addresses, sample_egress_address
from xds.translate.upstream_filters import upstream_filters
from xds.wire import template_pb2 as wire

CONNECT_TIMEOUT = timedelta(seconds=5)


def translate_exit_targets(egress_address: str | None = None) -> wire.Cluster:
    """Build the cluster of all targets from a template. Connections come from the egress address, if there is one."""
    cluster = wire.Cluster.FromString(_template(sample_egress_address(egress_address)))
    if egress_address:
        cluster.upstream_bind_config.source_address.address = egress_address
        cluster.upstream_bind_config.source_address.port_value = 0
    else:
        cluster.ClearField("upstream_bind_config")
    return cluster


@cache
def _template(egress_address: str | None) -> bytes:
    return encode(define_exit_targets(egress_address))


def define_exit_targets(egress_address: str | None = None) -> Cluster:
    """Build the cluster of all targets."""
    source = SocketAddress(address=egress_address, port_value=0) if egress_address else None
    return Cluster(
        name=names.TARGETS,
        cluster_type=ClusterCustomClusterType(
            name="envoy.clusters.dynamic_forward_proxy",
            typed_config=pack(ClusterConfig(dns_cache_config=dns_cache(egress_address))),
        ),
        lb_policy=ClusterLbPolicy.CLUSTER_PROVIDED,
        connect_timeout=CONNECT_TIMEOUT,
        circuit_breakers=unbounded_circuit_breakers(),
        upstream_bind_config=BindConfig(source_address=source) if source else None,
        typed_extension_protocol_options=http_options(
            HttpProtocolOptions(
                # One request per connection. A kept one shows its tunnel's death only by a timeout, and would let a target
                # link two clients.
                common_http_protocol_options=CommonHttpOptions(max_requests_per_connection=1),
                explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                    http_protocol_options=Http1ProtocolOptions()
                ),
                # Envoy requires it of this kind of cluster. Targets are dialled without TLS: that is between client and target.
                upstream_http_protocol_options=UpstreamHttpProtocolOptions(auto_sni=True, auto_san_validation=True),
                http_filters=upstream_filters(),
            )
        ),
    )


def dns_cache(egress_address: str | None) -> DnsCacheConfig:
    """Build the cache of resolved names. The listener's filter and the cluster have to name the same one."""
    config = DnsCacheConfig(
        name="targets",
        dns_lookup_family=DnsLookupFamily.V4_PREFERRED,
        host_ttl=timedelta(minutes=5),
        max_hosts=100_000,
        resolved_address_filter=forbidden_addresses(egress_address),
    )
    return name_cache(config)
