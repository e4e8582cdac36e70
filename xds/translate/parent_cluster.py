"""CDS and SDS for exits with a parent: its cluster and its credentials."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final

from envoy_data_plane.envoy.config.cluster.v3 import (
    Cluster,
    ClusterCustomClusterType,
    ClusterDiscoveryType,
    ClusterLbPolicy,
)
from envoy_data_plane.envoy.config.cluster.v3 import ClusterDnsLookupFamily as DnsLookupFamily
from envoy_data_plane.envoy.config.core.v3 import (
    BindConfig,
    DataSource,
    Http1ProtocolOptions,
    SocketAddress,
    TypedExtensionConfig,
    UpstreamHttpProtocolOptions,
)
from envoy_data_plane.envoy.config.core.v3 import HttpProtocolOptions as CommonHttpOptions
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.clusters.dynamic_forward_proxy.v3 import ClusterConfig
from envoy_data_plane.envoy.extensions.common.dynamic_forward_proxy.v3 import DnsCacheConfig
from envoy_data_plane.envoy.extensions.filters.http.credential_injector.v3 import CredentialInjector
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic.v3 import Generic
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import GenericSecret, SdsSecretConfig, Secret
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)

from model.entities import Parent
from xds.translate import names
from xds.translate.clusters import http_options, unbounded_circuit_breakers
from xds.translate.dns_caches import name_cache
from xds.translate.encoding import encode, pack
from xds.translate.forbidden_targets import forbidden_parents
from xds.translate.http import ads_source, http_filter, tcp_address
from xds.translate.upstream_filters import upstream_filters
from xds.wire import template_pb2 as wire

CONNECT_TIMEOUT: Final = timedelta(seconds=3)
REFRESH: Final = timedelta(seconds=5)
CREDENTIALS_HEADER: Final = "proxy-authorization"
_ANY_CREDENTIAL: Final = "<any>"


def translate_parent(parent: Parent, egress_address: str | None = None) -> wire.Cluster:
    """Build the cluster of a parent from a template. It depends on whether there are credentials, not on their values."""
    credential = None if parent.username is None else _ANY_CREDENTIAL
    return wire.Cluster.FromString(_template(replace(parent, username=credential, password=credential), egress_address))


@lru_cache(maxsize=1024)  # most are equal: port 8888 in the exit's own namespace
def _template(parent: Parent, egress_address: str | None) -> bytes:
    return encode(define_parent(parent, egress_address))


def define_parent(parent: Parent, egress_address: str | None = None) -> Cluster:
    """Build the cluster of a parent. Connections come from the egress address, if there is one.

    A name is resolved by the listener's filter (`parent_failures.parent_filters`), and by the cluster alone not at all.
    """
    source = SocketAddress(address=egress_address, port_value=0) if egress_address else None
    return Cluster(
        name=names.PARENT,
        **(_by_name() if parent.is_named else _by_address(parent)),
        connect_timeout=CONNECT_TIMEOUT,
        circuit_breakers=unbounded_circuit_breakers(),
        upstream_bind_config=BindConfig(source_address=source) if source else None,
        typed_extension_protocol_options=http_options(
            HttpProtocolOptions(
                # A kept connection would let the parent link two clients, and may be closed when it is needed.
                common_http_protocol_options=CommonHttpOptions(max_requests_per_connection=1),
                explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                    http_protocol_options=Http1ProtocolOptions(send_fully_qualified_url=True)
                ),
                # Envoy requires it of a cluster that resolves names, and uses it for TLS alone.
                upstream_http_protocol_options=(
                    UpstreamHttpProtocolOptions(auto_sni=True, auto_san_validation=True) if parent.is_named else None
                ),
                http_filters=upstream_filters(*([] if parent.username is None else [_credentials_filter()])),
            )
        ),
    )


def _by_address(parent: Parent) -> dict[str, Any]:
    host = LbEndpoint(endpoint=Endpoint(address=tcp_address(parent.address, parent.port)))
    return {
        "type": ClusterDiscoveryType.STATIC,
        "load_assignment": ClusterLoadAssignment(
            cluster_name=names.PARENT, endpoints=[LocalityLbEndpoints(lb_endpoints=[host])]
        ),
    }


def _by_name() -> dict[str, Any]:
    return {
        "cluster_type": ClusterCustomClusterType(
            name="envoy.clusters.dynamic_forward_proxy",
            typed_config=pack(ClusterConfig(dns_cache_config=parent_dns_cache())),
        ),
        "lb_policy": ClusterLbPolicy.CLUSTER_PROVIDED,
    }


def parent_dns_cache() -> DnsCacheConfig:
    """Build the cache of a parent's addresses. The listener's filter and the cluster have to name the same one."""
    config = DnsCacheConfig(
        name="parent",
        dns_lookup_family=DnsLookupFamily.V4_PREFERRED,
        dns_refresh_rate=REFRESH,  # a container has another address after a restart
        host_ttl=timedelta(minutes=5),
        resolved_address_filter=forbidden_parents(),
    )
    return name_cache(config)


def _credentials_filter() -> HttpFilter:
    """Build the filter that adds the credentials. A header of a route would show them in config_dump."""
    secret = SdsSecretConfig(name=names.PARENT_SECRET, sds_config=ads_source())
    generic = Generic(credential=secret, header=CREDENTIALS_HEADER)
    injector = CredentialInjector(
        overwrite=True,
        credential=TypedExtensionConfig(name="envoy.http.injected_credentials.generic", typed_config=pack(generic)),
    )
    return http_filter("envoy.filters.http.credential_injector", injector)


def translate_credentials(parent: Parent) -> Secret | None:
    """Build the secret with the credentials as a header's whole value (RFC 7617); None for a parent without any."""
    if parent.username is None or parent.password is None:
        return None
    value = "Basic " + b64encode(f"{parent.username}:{parent.password}".encode()).decode()
    return Secret(name=names.PARENT_SECRET, generic_secret=GenericSecret(secret=DataSource(inline_string=value)))
