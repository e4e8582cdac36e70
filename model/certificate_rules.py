"""Rules for the certificates of TLS listeners: what a chain and its key must be, and which server names they cover. Pure.

An error names the part at fault and the cure, and never contains a key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from model.errors import ExitplaneError

RSA_BITS_MIN: Final = 2048
RSA_BITS_MAX: Final = 4096
"""A handshake with a larger key costs a gateway more than 5 ms of processor time."""
CHAIN_MAX: Final = 10
WARN_BEFORE: Final = timedelta(days=14)
WARN_IN_LAST: Final = 1 / 4
"""The part of a lifetime at whose begin a certificate with a short one is near its end."""
_WEAK_HASHES: Final = (hashes.MD5, hashes.SHA1)

Part = Literal["chain", "key"]


class BadServerCertificate(ExitplaneError):
    """A chain or key that listeners cannot use. `part` is the one at fault."""

    code = "bad_certificate"

    def __init__(self, part: Part, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.part = part


class BadServerNames(ExitplaneError):
    """The certificates of a listener have a name twice, or lack one that the listener uses."""

    code = "bad_server_names"


@dataclass(frozen=True, slots=True)
class CheckedPair:
    """A chain and the key of its first certificate, in PEM; the key is PKCS#8 without a passphrase."""

    chain: str
    key: str
    server_names: tuple[str, ...]
    """DNS names in lower case, sorted. A wildcard (`*.example.net`) stands for one label."""
    valid_from: datetime
    expires_at: datetime


def check_pair(chain: str, key: str, now: datetime, passphrase: str | None = None) -> CheckedPair:
    """Check a chain (the server's own certificate first) and its key. Raises BadServerCertificate."""
    certificates = _load_chain(chain)
    private = _load_key(key, passphrase)
    _check_key("key", private.public_key())
    first = certificates[0]
    public = _public_der(private.public_key())
    if public != _public_der(first.public_key()):
        if any(public == _public_der(each.public_key()) for each in certificates[1:]):
            raise _wrong_order("the key belongs to a certificate that is not the first of the chain")
        raise BadServerCertificate(
            "key",
            "the key does not belong to the first certificate",
            hint="send a chain and a key that belong together",
        )
    _check_order(certificates)
    for number, each in enumerate(certificates, start=1):
        what = "the certificate" if number == 1 else f"certificate {number} of the chain"
        _check_validity(each, what, now)
        _check_signature(each, what)
    _check_use(first)
    return CheckedPair(
        chain="".join(each.public_bytes(Encoding.PEM).decode() for each in certificates),
        key=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        server_names=_server_names(first),
        valid_from=first.not_valid_before_utc,
        expires_at=first.not_valid_after_utc,
    )


def _load_chain(chain: str) -> list[x509.Certificate]:
    try:
        certificates = x509.load_pem_x509_certificates(chain.encode())
        for each in certificates:
            each.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadServerCertificate(
            "chain",
            "this is not a chain of certificates in PEM",
            hint="send PEM, the server's own certificate first",
        ) from error
    if len(certificates) > CHAIN_MAX:
        raise BadServerCertificate(
            "chain",
            f"the chain has more than {CHAIN_MAX} certificates",
            hint="send those from the server's to its root",
        )
    return certificates


def _load_key(key: str, passphrase: str | None) -> Any:
    try:
        return load_pem_private_key(key.encode(), passphrase.encode() if passphrase else None)
    except TypeError as error:  # the library tells by it that there is a passphrase too few, or too many
        if passphrase:
            message, hint = "the key is not encrypted, but there is a passphrase", "leave the passphrase out"
        else:
            message, hint = "the key is encrypted", "send its passphrase, or the key without one (openssl pkey)"
        raise BadServerCertificate("key", message, hint=hint) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        what = "the passphrase does not fit, or this" if passphrase else "this"
        raise BadServerCertificate(
            "key", f"{what} is not a private key in PEM", hint="send the key of the first certificate"
        ) from error


def _check_key(part: Part, public: Any) -> None:
    if isinstance(public, rsa.RSAPublicKey) and RSA_BITS_MIN <= public.key_size <= RSA_BITS_MAX:
        return
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1 | ec.SECP384R1):
        return
    if isinstance(public, rsa.RSAPublicKey):
        kind = f"RSA with {public.key_size} bits"
    else:
        kind = public.curve.name if isinstance(public, ec.EllipticCurvePublicKey) else type(public).__name__
    hint = f"use P-256, P-384, or RSA of {RSA_BITS_MIN} to {RSA_BITS_MAX} bits"
    raise BadServerCertificate(part, f"gateways do not support a key of this type ({kind})", hint=hint)


def _check_order(certificates: Sequence[x509.Certificate]) -> None:
    """Check that the next certificate of the chain issued each one. A root at its end need not be there."""
    for number, (each, issuer) in enumerate(pairwise(certificates), start=1):
        try:
            each.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature) as error:
            message = f"certificate {number} of the chain was not issued by certificate {number + 1}"
            raise _wrong_order(message) from error


def _check_signature(certificate: x509.Certificate, what: str) -> None:
    """Check the hash of a signature. That of a root is not looked at by anybody."""
    algorithm = certificate.signature_hash_algorithm
    if isinstance(algorithm, _WEAK_HASHES) and certificate.issuer != certificate.subject:
        message = f"{what} is signed with {algorithm.name.upper()}"
        raise BadServerCertificate("chain", message, hint="get one that is signed with SHA-256 or better")


def _wrong_order(message: str) -> BadServerCertificate:
    hint = "send the server's own certificate first, and after each one its issuer's"
    return BadServerCertificate("chain", f"the chain is in the wrong order: {message}", hint=hint)


def _check_validity(certificate: x509.Certificate, what: str, now: datetime) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        raise BadServerCertificate(
            "chain",
            f"{what} is not valid before {begin.isoformat()}",
            hint="send it when it is valid, or correct the clock",
        )
    if end <= now:
        raise BadServerCertificate("chain", f"{what} expired at {end.isoformat()}", hint="send a valid certificate")


def _check_use(certificate: x509.Certificate) -> None:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    except (ValueError, x509.DuplicateExtension) as error:
        raise _malformed_extensions() from error
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & {*usages}:
        raise BadServerCertificate(
            "chain", "the certificate is not for servers", hint="get one with the extended key usage serverAuth"
        )


def _server_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return tuple(sorted({name.lower() for name in names.get_values_for_type(x509.DNSName)}))
    except x509.ExtensionNotFound:
        return ()
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise _malformed_extensions() from error


def _malformed_extensions() -> BadServerCertificate:
    return BadServerCertificate("chain", "the certificate's extensions are malformed", hint="have it issued anew")


def _public_der(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


# -- names and times ---------------------------------------------------------------------------------------------------


def covers(server_names: Iterable[str], name: str) -> bool:
    """Return whether clients that dial `name` accept a certificate with these names."""
    _, _, parent = name.partition(".")
    return bool({name, f"*.{parent}"} & {*server_names})


def check_server_names(wanted: Iterable[str], certificates: Sequence[tuple[str, Iterable[str]]]) -> None:
    """Check that a listener's certificates, pairs of name and server names, are distinct and cover the server names it uses.

    Raises BadServerNames.
    """
    if len({name for name, _ in certificates}) < len(certificates):
        raise BadServerNames("the listener has a certificate twice", hint="send it once")
    owners: dict[str, str] = {}
    for certificate, names in certificates:
        for name in names:
            if name in owners:
                raise BadServerNames(
                    f"the certificates {owners[name]} and {certificate} of the listener both have the name {name}",
                    hint="a client that dials it would get one of them by chance: take one away",
                )
            owners[name] = certificate
    for name in wanted:
        if not covers(owners, name):
            raise BadServerNames(
                f"no certificate of the listener has the name {name}, which `countries_by_server_name` uses",
                hint="add a certificate for it, or remove the name",
            )


def is_near_expiry(valid_from: datetime | None, expires_at: datetime, now: datetime) -> bool:
    """Return whether a certificate should have been renewed: two weeks before its end, or in the last quarter of a short life."""
    margin = WARN_BEFORE if valid_from is None else min(WARN_BEFORE, (expires_at - valid_from) * WARN_IN_LAST)
    return expires_at - now <= margin


def columns_of(pair: CheckedPair) -> Mapping[str, Any]:
    """Return the columns of a stored certificate that a pair fills."""
    return {
        "chain": pair.chain,
        "key": pair.key,
        "server_names": [*pair.server_names],
        "valid_from": pair.valid_from,
        "expires_at": pair.expires_at,
    }
