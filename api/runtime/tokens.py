"""The credentials of operators: access tokens, refresh tokens and API keys, and the key that signs them.

Everything is pure except `SigningKey`, which reads the key that all replicas share.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.types import Options

from model.database import Database
from model.repositories import logins

ACCESS_LIFETIME: Final = timedelta(hours=1)
SESSION_LIFETIME: Final = timedelta(days=30)
"""The lifetime of a login, which refreshing does not extend."""
STATE_LIFETIME: Final = timedelta(minutes=10)
"""The time that a login at an OIDC provider may take."""
KEY_PREFIX: Final = "ep-key-"
REFRESH_PREFIX: Final = "ep-refresh-"
_ALGORITHM: Final = "EdDSA"
_ISSUER: Final = "exitplane"
_SECRET_BYTES: Final = 32
_SEAL_BYTES: Final = 16


class BadToken(Exception):
    """The text is not a token of this control plane, or one for another purpose."""


class TokenExpired(Exception):
    """The token has expired."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """The content of an access token."""

    operator_id: UUID
    session_id: UUID


class TokenSigner:
    """A signer and reader of tokens. Each purpose has its own key or audience, so no token serves another purpose."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._private = Ed25519PrivateKey.from_private_bytes(secret)
        self._public = self._private.public_key()

    def issue_access(self, access: AccessToken, now: datetime) -> str:
        """Issue a token that is valid for ACCESS_LIFETIME while its session lives."""
        claims = {"sub": str(access.operator_id), "sid": str(access.session_id)}
        return self._sign(claims, "api", now, ACCESS_LIFETIME)

    def read_access(self, token: str, now: datetime) -> AccessToken:
        """Read an access token. Raises BadToken, TokenExpired."""
        claims = self._read(token, "api", now)
        try:
            return AccessToken(UUID(claims["sub"]), UUID(claims["sid"]))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise BadToken from error

    def issue_state(self, now: datetime) -> str:
        """Issue the OIDC state, by which every replica can check in the callback that the login began here."""
        return self._sign({"jti": secrets.token_urlsafe(16)}, "oidc", now, STATE_LIFETIME)

    def check_state(self, state: str, now: datetime) -> None:
        """Check an OIDC state. Raises BadToken, TokenExpired."""
        self._read(state, "oidc", now)

    def new_refresh(self, session_id: UUID) -> str:
        """Make a refresh token of a session. Store its digest only."""
        body = session_id.bytes + secrets.token_bytes(_SEAL_BYTES)
        return REFRESH_PREFIX + _encode(body + self._seal(body))

    def read_refresh(self, token: str) -> UUID:
        """Read the session of a refresh token, which need not be its newest token. Raises BadToken."""
        try:
            raw = urlsafe_b64decode(token.removeprefix(REFRESH_PREFIX) + "==")
        except ValueError as error:
            raise BadToken from error
        body, seal = raw[:-_SEAL_BYTES], raw[-_SEAL_BYTES:]
        if len(body) != 2 * _SEAL_BYTES or not hmac.compare_digest(seal, self._seal(body)):
            raise BadToken
        return UUID(bytes=body[:16])

    def derive(self, purpose: str, text: str) -> str:
        """Derive 43 characters from a text, which only a holder of the key can compute."""
        return _encode(self._mac(purpose, text.encode()))

    def _seal(self, body: bytes) -> bytes:
        return self._mac("refresh", body)[:_SEAL_BYTES]

    def _mac(self, purpose: str, content: bytes) -> bytes:
        return hmac.digest(self._secret, purpose.encode() + b"\0" + content, "sha256")

    def _sign(self, claims: dict[str, Any], audience: str, now: datetime, lifetime: timedelta) -> str:
        issued = int(now.timestamp())
        times = {"iat": issued, "exp": issued + int(lifetime.total_seconds())}
        return jwt.encode({**claims, **times, "iss": _ISSUER, "aud": audience}, self._private, _ALGORITHM)

    def _read(self, token: str, audience: str, now: datetime) -> dict[str, Any]:
        # the clock is injected, so the library must not use its own
        options: Options = {
            "verify_exp": False,
            "verify_iat": False,
            "verify_nbf": False,
            "require": ["exp", "iss", "aud"],
        }
        try:
            claims: dict[str, Any] = jwt.decode(
                token, self._public, [_ALGORITHM], audience=audience, issuer=_ISSUER, options=options
            )
            expires = datetime.fromtimestamp(claims["exp"], UTC)
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise BadToken from error
        if expires <= now:
            raise TokenExpired
        return claims


class SigningKey:
    """The signing key that all replicas share, read or created at the first use."""

    def __init__(self) -> None:
        self._signer: TokenSigner | None = None

    async def get_signer(self, database: Database) -> TokenSigner:
        """Get the signer. Raises DatabaseUnreachable until the key was read once."""
        if self._signer is None:
            async with database.session() as session:
                secret = await logins.ensure_signing_key(session, secrets.token_bytes(_SECRET_BYTES))
            self._signer = TokenSigner(secret)
        return self._signer


def new_key() -> str:
    """Make an API key. Store its digest only."""
    return KEY_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def digest_of(secret: str) -> str:
    """Compute the digest under which an API key or refresh token is stored. SHA-256 suffices, for they are random."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")
