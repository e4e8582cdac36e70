"""Server certificates for tests of the API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def certificate(name: str = "gateway.example", days: int = 30, key=None) -> dict[str, str]:
    """Return a self-signed chain and its key, as fields of a request."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin - timedelta(days=60))
        .not_valid_after(begin + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8
    return {
        "chain": made.public_bytes(pem).decode(),
        "key": key.private_bytes(pem, plain, serialization.NoEncryption()).decode(),
    }
