"""Authorities, chains and keys for tests of server certificates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Issued:
    """A certificate, its key and its issuer."""

    certificate: x509.Certificate
    key: Any
    issuer: Issued | None = None

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def key_pem(self, passphrase: str | None = None) -> str:
        sealing = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealing).decode()


def issue(
    *names: str,
    issuer: Issued | None = None,
    key: Any = None,
    begin: timedelta = timedelta(days=-30),
    end: timedelta = timedelta(days=60),
    now: datetime = NOW,
    hash_: Any = None,
    usages: list[x509.ObjectIdentifier] | None = None,
) -> Issued:
    """Issue a certificate for DNS names (none: an authority), by an issuer or by itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"{names or 'authority'} {x509.random_serial_number()}"[:64])]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begin)
        .not_valid_after(now + end)
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([*map(x509.DNSName, names)]), critical=False)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return Issued(builder.sign(issuer.key if issuer else key, hash_ or hashes.SHA256()), key, issuer)
