"""Request signatures of agents: a short-lived ES256 token over path and body, signed with the key of their certificate.

The API speaks plain HTTP behind a TLS terminator, so the request itself carries the signature (JWS, RFC 7515). The header
`x5t#S256` names the certificate by its thumbprint (RFC 7515, section 4.1.8).
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from model.errors import ExitplaneError

LIFETIME = timedelta(seconds=60)
LEEWAY = timedelta(minutes=5)
"""The tolerated error of an agent's clock."""
CLOCK_TOLERANCE = LIFETIME + LEEWAY
"""The greatest accepted difference between the time of a signature and the control plane's."""
_THUMBPRINT = "x5t#S256"


class BadSignature(ExitplaneError):
    code = "bad_signature"


@dataclass(frozen=True, slots=True)
class SignatureClaim:
    """An unverified token, with the thumbprint of the certificate that it names."""

    thumbprint: str
    token: str


def thumbprint_of(certificate_pem: str) -> str:
    """Return the base64url of the SHA-256 of the certificate's DER."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    return _base64url(certificate.fingerprint(hashes.SHA256()))


def public_key_of(certificate_pem: str) -> str:
    """Return the certificate's public key as PEM."""
    key = x509.load_pem_x509_certificate(certificate_pem.encode()).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def sign(key_pem: str, thumbprint: str, path: str, body: bytes, now: datetime) -> str:
    """Sign a token for one request to `path` with `body`, valid for LIFETIME.

    `thumbprint` names the certificate of the key; empty while it has none. `iat` has microseconds, because each signature of a
    proxy must be newer than the one before (`is_newer`).
    """
    claims = {"aud": path, "iat": now.timestamp(), "exp": now + LIFETIME, "sha256": _digest(body)}
    return jwt.encode(claims, key_pem, algorithm="ES256", headers={_THUMBPRINT: thumbprint})


def read(authorization: str | None) -> SignatureClaim:
    """Read the token in an `Authorization` header. Raises BadSignature when there is none, or it names no certificate."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise BadSignature(
            "the request carries no signature", hint="sign it with the key of the certificate (Bearer token)"
        )
    header = token.partition(".")[0]
    try:
        thumbprint = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))[_THUMBPRINT]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadSignature(
            "the signature is not a token that names a certificate", hint=f"set {_THUMBPRINT}"
        ) from error
    return SignatureClaim(str(thumbprint), token)


def verify(claim: SignatureClaim, public_key_pem: str, path: str, body: bytes, now: datetime) -> datetime:
    """Verify that this key signed this request recently, and return when. Raises BadSignature otherwise."""
    try:
        claims = jwt.decode(
            claim.token,
            _read_key(public_key_pem),
            algorithms=["ES256"],
            audience=path,
            options={"require": ["exp", "iat", "aud"], "verify_exp": False, "verify_iat": False},
        )
    except jwt.InvalidTokenError as error:
        raise BadSignature(f"the signature is not valid: {error}", hint="sign it with the certificate's key") from error
    if claims.get("sha256") != _digest(body):
        raise BadSignature("the signature is for another body", hint="sign the bytes that are sent")
    # `not <=` instead of `>`, so that NaN is refused too
    signed_at = float(claims["iat"])
    if not abs(signed_at - now.timestamp()) <= CLOCK_TOLERANCE.total_seconds():
        raise BadSignature("the signature was made at another time", hint="set the agent's clock (NTP)")
    return datetime.fromtimestamp(signed_at, UTC)


def is_newer(signed_at: datetime, known: datetime, now: datetime) -> bool:
    """Return whether a signature is newer than the newest known one of its proxy; otherwise it may be a replay.

    A known time that nobody could sign now counts for nothing: the control plane's clock was ahead when it was accepted.
    `model.repositories.heartbeats` has this rule in SQL.
    """
    return signed_at > known or known > now + CLOCK_TOLERANCE


@lru_cache(maxsize=32_768)
def _read_key(pem: str) -> EllipticCurvePublicKey:
    """Parse a public key. It is cached, because each proxy uses its key again, and parsing takes longer than verifying."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise jwt.InvalidKeyError(str(error)) from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise jwt.InvalidKeyError("it is not on an elliptic curve")
    return key


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
