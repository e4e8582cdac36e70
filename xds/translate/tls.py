"""Mutual TLS between gateways and exits, with keys that each proxy's agent keeps in files beside its Envoy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    ConfigSource,
    PathConfigSource,
    TransportSocket,
    WatchedDirectory,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    CommonTlsContextCombinedCertificateValidationContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)

from xds.translate import names
from xds.translate.encoding import pack
from xds.translate.http import ads_source

HTTP1: Final = "http/1.1"
HTTP2: Final = "h2"
SESSION_KEYS: Final = 256
"""TLS sessions that a gateway keeps for a pool, to resume them.

TLS 1.3 uses each once. With Envoy's default of one, most of several connections at once begin with a full handshake.
"""


def to_exits() -> TransportSocket:
    """Build a gateway's TLS to exits: it presents its certificate, and checks that the exit is the one it dialled.

    The endpoint's host name is the SNI and has to be in the certificate (`auto_sni_san_validation`): one cluster cannot pin a
    name for each endpoint. Each exit chooses the protocol (ALPN): exits of the first release know HTTP/2 alone.
    """
    common = _common((HTTP2, HTTP1))
    common.combined_validation_context = CommonTlsContextCombinedCertificateValidationContext(
        default_validation_context=CertificateValidationContext(),
        validation_context_sds_secret_config=_secret(names.AUTHORITY_SECRET, names.AUTHORITY_PATH),
    )
    context = UpstreamTlsContext(
        common_tls_context=common,
        auto_host_sni=True,
        auto_sni_san_validation=True,
        max_session_keys=SESSION_KEYS,
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def from_gateways() -> TransportSocket:
    """Build an exit's TLS, which admits the gateways that its fleet has now, and offers HTTP/1.1 alone (ALPN).

    The list travels by SDS, so that a gateway that was removed is refused at once, and no listener drains
    (docs/decisions/0042-exits-admit-the-gateways-that-there-are.md).
    """
    common = _common((HTTP1,))
    common.validation_context_sds_secret_config = SdsSecretConfig(name=names.GATEWAYS_SECRET, sds_config=ads_source())
    context = DownstreamTlsContext(common_tls_context=common, require_client_certificate=True)
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


_VERSIONS: Final = {"1.2": TlsParametersTlsProtocol.TLSv1_2, "1.3": TlsParametersTlsProtocol.TLSv1_3}


def to_clients(secrets: Sequence[str], minimum_version: str) -> TransportSocket:
    """Build a gateway's TLS to clients: it presents the certificate of the server name that they dial, and asks for none.

    Envoy chooses by the names in the certificates, exact ones before wildcards. Other clients get the first. All are one filter
    chain, so a certificate that is renewed with other names changes no listener. The ciphers are Envoy's own list.
    It prefers HTTP/1.1, whose tunnels are whole; HTTP/2 is for clients that offer nothing else (docs/limits.md).
    The key travels by SDS over the ADS stream (docs/architecture.md#secrets-travel-by-sds).
    """
    context = DownstreamTlsContext(
        common_tls_context=CommonTlsContext(
            tls_params=TlsParameters(
                tls_minimum_protocol_version=_VERSIONS[minimum_version],
                tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
            ),
            alpn_protocols=[HTTP1, HTTP2],
            tls_certificate_sds_secret_configs=[
                SdsSecretConfig(name=secret, sds_config=ads_source()) for secret in secrets
            ],
        )
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def _common(protocols: Sequence[str]) -> CommonTlsContext:
    return CommonTlsContext(
        tls_params=TlsParameters(  # the maximum too: Envoy's clients stop at 1.2 by default
            tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
            tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
        ),
        alpn_protocols=list(protocols),
        tls_certificate_sds_secret_configs=[_secret(names.IDENTITY_SECRET, names.IDENTITY_PATH)],
    )


def _secret(name: str, path: str) -> SdsSecretConfig:
    folder = path.rpartition("/")[0]
    source = PathConfigSource(path=path, watched_directory=WatchedDirectory(path=folder))
    return SdsSecretConfig(
        name=name, sds_config=ConfigSource(path_config_source=source, resource_api_version=ApiVersion.V3)
    )
