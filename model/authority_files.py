"""Certificates and keys of an authority that come from files: each is checked before anything is stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from model.authority import CertificateAuthority, key_pem_of
from model.errors import ExitplaneError

_OTHERS: Final = 0o077
_RSA_BITS_MIN: Final = 2048
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
_ISSUER_CURVES: Final = _CURVES[:2]
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class UnusableAuthority(ExitplaneError):
    """A certificate, chain or key that no authority can be made of."""

    code = "unusable_authority"


def read_text(path: Path, *, private: bool = False) -> str:
    """Read a text file, a private one only if nobody but its owner can. Raises UnusableAuthority."""
    try:
        mode = path.stat().st_mode
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableAuthority(f"{path} cannot be read ({error})", hint="name another file") from error
    if private and mode & _OTHERS:
        raise UnusableAuthority(f"others can read {path} (mode {mode & 0o777:04o})", hint=f"chmod 600 {path}")
    return text


def read_key(path: Path, passphrase: str | None) -> str:
    """Read a private key from a file that only its owner can read, and return it unencrypted (PEM). Raises UnusableAuthority."""
    text = read_text(path, private=True).encode()
    try:
        key = serialization.load_pem_private_key(text, None if passphrase is None else passphrase.encode())
    except TypeError as error:
        needed = "needs a passphrase" if passphrase is None else "has no passphrase"
        hint = "name its file with --passphrase-file" if passphrase is None else "omit --passphrase-file"
        raise UnusableAuthority(f"the key in {path} {needed}", hint=hint) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = "write the key in PEM, and check the passphrase"
        raise UnusableAuthority(f"{path} holds no private key, or the passphrase is wrong", hint=hint) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _ISSUER_CURVES:
        raise UnusableAuthority(
            f"the key in {path} is not ECDSA on P-384 or P-256", hint="use a key on P-384 (secp384r1)"
        )
    return key_pem_of(key)


def build_authority(text: str, key_pem: str, now: datetime) -> CertificateAuthority:
    """Build an authority of a chain (PEM), the issuer first and the root last, and the issuer's key. Raises UnusableAuthority."""
    try:
        chain = x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        hint = "write the issuer's certificate first, then those above it, the root last"
        raise UnusableAuthority("the chain is not PEM", hint=hint) from error
    check_chain(chain, now)
    key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    if chain[0].public_key() != key.public_key():
        raise UnusableAuthority(
            f"the first certificate, {_name(chain[0])}, is not for the issuer's key",
            hint="write the issuer's certificate first, and name its own key; without --key it is that of `exitplane ca request`",
        )
    root, above = _pem(chain[-1:]), chain[:-1]
    return CertificateAuthority(root, key_pem, _pem(above))


def check_chain(chain: Sequence[x509.Certificate], now: datetime) -> None:
    """Check the certificates of an authority, the issuer first and the root last. Raises UnusableAuthority."""
    for lower, upper in pairwise(chain):
        if not _is_issued_by(lower, upper):
            raise UnusableAuthority(
                f"the chain is in the wrong order, or not one: {_name(upper)} did not sign {_name(lower)}",
                hint="write the issuer's certificate first, then those above it, the root last",
            )
    if not _is_issued_by(chain[-1], chain[-1]):
        raise UnusableAuthority(
            f"the chain has no root: {_name(chain[-1])}, the last one, did not sign itself",
            hint="add the root at the end",
        )
    for below, certificate in enumerate(chain):
        _check_certificate(certificate, below, now)


def _check_certificate(certificate: x509.Certificate, below: int, now: datetime) -> None:
    """Check one certificate of an authority, which has `below` other authorities below it."""
    name = _name(certificate)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        raise UnusableAuthority(
            f"{name} is not valid before {start:%Y-%m-%d %H:%M} UTC", hint="wait, or correct the clock"
        )
    if now >= end:
        raise UnusableAuthority(f"{name} expired at {end:%Y-%m-%d %H:%M} UTC", hint="renew it, or correct the clock")
    key = certificate.public_key()
    is_curve = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES
    is_rsa = isinstance(key, rsa.RSAPublicKey) and key.key_size >= _RSA_BITS_MIN
    if not is_curve and not is_rsa:
        hint = "use ECDSA on P-256, P-384 or P-521, or RSA of 2048 bits"
        raise UnusableAuthority(f"the key of {name} is weak or unusual", hint=hint)
    if not isinstance(certificate.signature_hash_algorithm, _HASHES):
        raise UnusableAuthority(
            f"the signature of {name} has a weak or unusual hash", hint="sign it with SHA-256 or SHA-384"
        )
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, ValueError, x509.DuplicateExtension) as error:
        hint = "sign it with basicConstraints=CA:TRUE and keyUsage=keyCertSign,cRLSign"
        raise UnusableAuthority(f"{name} is not the certificate of an authority", hint=hint) from error
    if not constraints.ca or not usage.key_cert_sign or not usage.crl_sign:
        hint = "sign it with basicConstraints=CA:TRUE and keyUsage=keyCertSign,cRLSign"
        raise UnusableAuthority(f"{name} is not the certificate of an authority", hint=hint)
    if constraints.path_length is not None and constraints.path_length < below:
        hint = f"its pathlen must be {below} or more"
        raise UnusableAuthority(f"{name} does not allow {below} authorities below it", hint=hint)


def _is_issued_by(lower: x509.Certificate, upper: x509.Certificate) -> bool:
    try:
        lower.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _name(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string()[:100])


def _pem(certificates: Sequence[x509.Certificate]) -> str:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates).decode()
