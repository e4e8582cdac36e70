"""The JSON form of resources for people, with Envoy's field names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import betterproto2
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import DataSource, TypedExtensionConfig
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration, ScopedRouteConfiguration
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import Secret

from xds.translate import ip_matcher, names

_TYPES: Final[Mapping[str, type[betterproto2.Message]]] = {
    names.LISTENER: Listener,
    names.ROUTE: RouteConfiguration,
    names.SCOPED_ROUTE: ScopedRouteConfiguration,
    names.CLUSTER: Cluster,
    names.ENDPOINT: ClusterLoadAssignment,
    names.SECRET: Secret,
    names.EXTENSION: TypedExtensionConfig,
}
ip_matcher.register()
_AS_IN_THE_API: Final[Any] = str
"""The library's own casings break consecutive_5xx."""
_REDACTED: Final = "[redacted]"


def as_json(type_url: str, body: bytes) -> dict[str, Any]:
    """Decode a resource with Envoy's types, and redact private keys, credentials and their hashes.

    Raises KeyError for a type that is not served.
    """
    message = _TYPES[type_url].parse(body)
    if isinstance(message, Secret):
        _redact(message)
    found: dict[str, Any] = message.to_dict(output_format=betterproto2.OutputFormat.PROTO_JSON, casing=_AS_IN_THE_API)
    if type_url == names.EXTENSION:
        _redact_users(found)
    return found


def _redact_users(found: Any) -> None:
    """Redact the hashes of users' secrets, at any depth of filters within filters."""
    if isinstance(found, dict):
        if str(found.get("@type", "")).endswith(".BasicAuth"):
            found["users"] = {"inline_string": _REDACTED}
        for each in found.values():
            _redact_users(each)
    elif isinstance(found, list):
        for each in found:
            _redact_users(each)


def _redact(secret: Secret) -> None:
    if secret.tls_certificate and secret.tls_certificate.private_key:
        secret.tls_certificate.private_key = DataSource(inline_string=_REDACTED)
    if secret.generic_secret and secret.generic_secret.secret:
        secret.generic_secret.secret = DataSource(inline_string=_REDACTED)
