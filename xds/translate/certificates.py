"""SDS for gateways: the certificates of TLS listeners."""

from __future__ import annotations

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import Secret, TlsCertificate

from model.entities import ServerCertificate
from xds.translate import names


def translate_certificate(certificate: ServerCertificate) -> Secret:
    """Build the secret that a listener refers to."""
    pair = TlsCertificate(
        certificate_chain=DataSource(inline_string=certificate.chain),
        private_key=DataSource(inline_string=certificate.key),
    )
    return Secret(name=names.certificate_secret(certificate.id), tls_certificate=pair)
