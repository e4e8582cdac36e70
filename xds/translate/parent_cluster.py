"""CDS and SDS for exits with a parent: the one that is dialled, and what it is shown."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType
from envoy_data_plane.envoy.config.cluster.v3 import ClusterDnsLookupFamily as DnsLookupFamily
from envoy_data_plane.envoy.config.core.v3 import (
    BindConfig,
    DataSource,
    Http1ProtocolOptions,
    SocketAddress,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.core.v3 import HttpProtocolOptions as CommonHttpOptions
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.filters.http.credential_injector.v3 import CredentialInjector
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import UpstreamCodec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic.v3 import Generic
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import GenericSecret, SdsSecretConfig, Secret
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)

from model.entities import Parent
from xds.translate import names
from xds.translate.clusters import http_options, unbounded
from xds.translate.encoding import encode, pack
from xds.translate.http import http_filter, over_ads, socket
from xds.wire import template_pb2 as wire

CONNECT_TIMEOUT: Final = timedelta(seconds=3)
CREDENTIALS_HEADER: Final = "proxy-authorization"
_SOME: Final = "<some>"


def translate_parent(parent: Parent, egress_address: str | None = None) -> wire.Cluster:
    """The cluster of a parent. What its credentials are makes no difference, only whether there are any."""
    some = None if parent.username is None else _SOME
    return wire.Cluster.FromString(_cluster(replace(parent, username=some, password=some), egress_address))


@lru_cache(maxsize=1024)  # most are the same: port 8888 of the exit's own namespace
def _cluster(parent: Parent, egress_address: str | None) -> bytes:
    return encode(define_parent(parent, egress_address))


def define_parent(parent: Parent, egress_address: str | None = None) -> Cluster:
    """The same in Envoy's own types; with `egress_address`, connections leave from that."""
    source = SocketAddress(address=egress_address, port_value=0) if egress_address else None
    host = LbEndpoint(endpoint=Endpoint(address=socket(parent.address, parent.port)))
    return Cluster(
        name=names.PARENT,
        type=ClusterDiscoveryType.STATIC if _is_literal(parent.address) else ClusterDiscoveryType.STRICT_DNS,
        dns_lookup_family=DnsLookupFamily.V4_PREFERRED,
        load_assignment=ClusterLoadAssignment(
            cluster_name=names.PARENT, endpoints=[LocalityLbEndpoints(lb_endpoints=[host])]
        ),
        connect_timeout=CONNECT_TIMEOUT,
        circuit_breakers=unbounded(),
        upstream_bind_config=BindConfig(source_address=source) if source else None,
        typed_extension_protocol_options=http_options(
            HttpProtocolOptions(
                # one that is kept would let the parent link one client with another, and may be closed when it is needed
                common_http_protocol_options=CommonHttpOptions(max_requests_per_connection=1),
                explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                    http_protocol_options=Http1ProtocolOptions(send_fully_qualified_url=True)
                ),
                http_filters=[] if parent.username is None else _with_credentials(),
            )
        ),
    )


def _with_credentials() -> list[HttpFilter]:
    """Filters of the connection to the parent: never a header of a route, which config_dump shows as it is."""
    secret = SdsSecretConfig(name=names.PARENT_SECRET, sds_config=over_ads())
    generic = Generic(credential=secret, header=CREDENTIALS_HEADER)
    injector = CredentialInjector(
        overwrite=True,
        credential=TypedExtensionConfig(name="envoy.http.injected_credentials.generic", typed_config=pack(generic)),
    )
    return [
        http_filter("envoy.filters.http.credential_injector", injector),
        http_filter("envoy.filters.http.upstream_codec", UpstreamCodec()),
    ]


def translate_credentials(parent: Parent) -> Secret | None:
    """What the parent is shown: a header's whole value (RFC 7617); None when there is nothing to show."""
    if parent.username is None or parent.password is None:
        return None
    value = "Basic " + b64encode(f"{parent.username}:{parent.password}".encode()).decode()
    return Secret(name=names.PARENT_SECRET, generic_secret=GenericSecret(secret=DataSource(inline_string=value)))


def _is_literal(address: str) -> bool:
    try:
        ip_address(address)
    except ValueError:
        return False
    return True
