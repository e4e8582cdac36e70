"""The secret files beside Envoy, which it reloads when they are replaced (file-based SDS).

Names and paths are equal for every proxy, and relative to Envoy's working directory, so that clusters and listeners that refer to
them are shared byte for byte (docs/decisions/0002-secrets-by-relative-path.md). `xds.translate.names` has the same values.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

from agent.config.state_dir import StateDir

FOLDER: Final = "secrets"
IDENTITY: Final = "identity"
"""The tls_certificate with the proxy's own certificate and key."""
AUTHORITY: Final = "authority"
"""The validation_context with the root certificate that verifies proxies and the control plane."""
IDENTITY_PATH: Final = f"{FOLDER}/{IDENTITY}.yaml"
AUTHORITY_PATH: Final = f"{FOLDER}/{AUTHORITY}.yaml"

_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


def write_secrets(folder: StateDir, *, key_pem: str, certificate_pem: str, authority_pem: str) -> None:
    """Replace both files atomically, so that Envoy never reads a certificate with the key of another."""
    identity = {
        "certificate_chain": {"inline_string": certificate_pem},
        "private_key": {"inline_string": key_pem},
    }
    authority = {"trusted_ca": {"inline_string": authority_pem}}
    folder.write(AUTHORITY_PATH, _build_discovery_response(AUTHORITY, "validation_context", authority))
    folder.write(IDENTITY_PATH, _build_discovery_response(IDENTITY, "tls_certificate", identity))


def _build_discovery_response(name: str, kind: str, secret: dict[str, Any]) -> str:
    """Build an envoy.service.discovery.v3.DiscoveryResponse with one secret, as YAML."""
    return yaml.safe_dump({"resources": [{"@type": _TYPE, "name": name, kind: secret}]}, sort_keys=False)
