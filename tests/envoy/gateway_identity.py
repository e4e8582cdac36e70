"""The TLS identity of a gateway under test."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

from xds.translate import names


def read_identity(folder: Path) -> ssl.SSLContext:
    """Build TLS with a gateway's certificate, from the secrets in its folder."""
    root = _secret_of(folder, names.AUTHORITY_PATH)["validation_context"]["trusted_ca"]["inline_string"]
    context = ssl.create_default_context(cadata=root)
    own = _secret_of(folder, names.IDENTITY_PATH)["tls_certificate"]
    pair = folder / "pair.pem"
    pair.write_text(own["certificate_chain"]["inline_string"] + own["private_key"]["inline_string"])
    context.load_cert_chain(pair)
    return context


def _secret_of(folder: Path, path: str) -> dict:
    return json.loads((folder / path).read_text())["resources"][0]
