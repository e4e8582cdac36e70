"""What Envoy reads its secrets from: files beside it, which it reloads when one is replaced (file-based SDS).

Names and paths are the same for every proxy, and relative to the folder that Envoy is started in, so that clusters and
listeners that refer to them are shared byte for byte
(docs/decisions/0002-secrets-by-relative-path.md). `xds.translate.names` says the same.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

from agent.config.state_dir import StateDir

FOLDER: Final = "secrets"
IDENTITY: Final = "identity"
"""A tls_certificate: the proxy's own certificate and key."""
AUTHORITY: Final = "authority"
"""A validation_context: the root that proxies and the control plane are verified by."""
IDENTITY_PATH: Final = f"{FOLDER}/{IDENTITY}.yaml"
AUTHORITY_PATH: Final = f"{FOLDER}/{AUTHORITY}.yaml"

_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


def write_secrets(folder: StateDir, *, key_pem: str, certificate_pem: str, authority_pem: str) -> None:
    """Replace both files, each as a whole: Envoy never sees a certificate beside another one's key."""
    identity = {
        "certificate_chain": {"inline_string": certificate_pem},
        "private_key": {"inline_string": key_pem},
    }
    authority = {"trusted_ca": {"inline_string": authority_pem}}
    folder.write(AUTHORITY_PATH, _discovery_response(AUTHORITY, "validation_context", authority))
    folder.write(IDENTITY_PATH, _discovery_response(IDENTITY, "tls_certificate", identity))


def _discovery_response(name: str, kind: str, secret: dict[str, Any]) -> str:
    """An envoy.service.discovery.v3.DiscoveryResponse with one secret, as YAML."""
    return yaml.safe_dump({"resources": [{"@type": _TYPE, "name": name, kind: secret}]}, sort_keys=False)
