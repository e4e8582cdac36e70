"""Proof that a heartbeat comes from the holder of a certificate: a short-lived ES256 token over path and body.

The API speaks plain HTTP behind whatever terminates TLS for it, so the binding travels in the request itself
(JWS, RFC 7515; the certificate is named by its `x5t#S256` thumbprint, section 4.1.8).
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
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
"""How far an agent's clock may be off."""
_THUMBPRINT = "x5t#S256"


class BadSignature(ExitplaneError):
    code = "bad_signature"


@dataclass(frozen=True, slots=True)
class SignatureClaim:
    """What a token says before its signature was checked: which certificate would have to have signed it."""

    thumbprint: str
    token: str


def thumbprint_of(certificate_pem: str) -> str:
    """base64url of the SHA-256 of the certificate's DER."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    return _base64url(certificate.fingerprint(hashes.SHA256()))


def public_key_of(certificate_pem: str) -> str:
    """The certificate's public key as PEM."""
    key = x509.load_pem_x509_certificate(certificate_pem.encode()).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def sign(key_pem: str, thumbprint: str, path: str, body: bytes, now: datetime) -> str:
    """The token for one request to `path` with `body`, good for LIFETIME."""
    claims = {"aud": path, "iat": now, "exp": now + LIFETIME, "sha256": _digest(body)}
    return jwt.encode(claims, key_pem, algorithm="ES256", headers={_THUMBPRINT: thumbprint})


def read(authorization: str | None) -> SignatureClaim:
    """The claim in an `Authorization` header; raises BadProof when there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise BadSignature(
            "the request carries no proof", hint="sign it with the key of the certificate (Bearer token)"
        )
    header = token.partition(".")[0]
    try:
        thumbprint = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))[_THUMBPRINT]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadSignature("the proof is not a token that names a certificate", hint=f"set {_THUMBPRINT}") from error
    return SignatureClaim(str(thumbprint), token)


def verify(claim: SignatureClaim, public_key_pem: str, path: str, body: bytes, now: datetime) -> None:
    """Raises BadProof unless `claim` was signed by that key for this very request, about now."""
    try:
        claims = jwt.decode(
            claim.token,
            _read_key(public_key_pem),
            algorithms=["ES256"],
            audience=path,
            options={"require": ["exp", "iat", "aud"], "verify_exp": False, "verify_iat": False},
        )
    except jwt.InvalidTokenError as error:
        raise BadSignature(f"the proof is not valid: {error}", hint="sign it with the certificate's key") from error
    if claims.get("sha256") != _digest(body):
        raise BadSignature("the proof is for another body", hint="sign the bytes that are sent")
    # so written that NaN, which compares with nothing, is refused too
    if not abs(float(claims["iat"]) - now.timestamp()) <= (LIFETIME + LEEWAY).total_seconds():
        raise BadSignature("the proof was made at another time", hint="set the agent's clock (NTP)")


@lru_cache(maxsize=32_768)
def _read_key(pem: str) -> EllipticCurvePublicKey:
    """A proxy proves its heartbeats by the same key again and again, and to read it takes longer than to check with it."""
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
