"""What operators hold to prove who they are: access tokens, refresh tokens, API keys; and the key behind all of these.

Pure, but for `SigningKey`, which reads the key that all replicas share.
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
"""After which one has to log in again, however often the session was refreshed."""
STATE_LIFETIME: Final = timedelta(minutes=10)
"""How long a login at an OIDC provider may take."""
KEY_PREFIX: Final = "ep-key-"
REFRESH_PREFIX: Final = "ep-refresh-"
_ALGORITHM: Final = "EdDSA"
_ISSUER: Final = "exitplane"
_SECRET_BYTES: Final = 32
_SEAL_BYTES: Final = 16


class BadToken(Exception):
    """It is no token of ours, or not one for this purpose."""


class TokenExpired(Exception):
    """It was one, until its time was over."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What an access token says."""

    operator_id: UUID
    session_id: UUID


class TokenSigner:
    """Makes and reads tokens. Each purpose has a key or an audience of its own: none passes for another."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._private = Ed25519PrivateKey.from_private_bytes(secret)
        self._public = self._private.public_key()

    def issue_access(self, access: AccessToken, now: datetime) -> str:
        """A token that is good for ACCESS_LIFETIME, as long as its session lives."""
        said = {"sub": str(access.operator_id), "sid": str(access.session_id)}
        return self._sign(said, "api", now, ACCESS_LIFETIME)

    def read_access(self, token: str, now: datetime) -> AccessToken:
        """Raises BadToken, TokenExpired."""
        said = self._read(token, "api", now)
        try:
            return AccessToken(UUID(said["sub"]), UUID(said["sid"]))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise BadToken from error

    def issue_state(self, now: datetime) -> str:
        """What an OIDC provider hands back, so that whichever replica takes the callback knows that a login began here."""
        return self._sign({"jti": secrets.token_urlsafe(16)}, "oidc", now, STATE_LIFETIME)

    def check_state(self, state: str, now: datetime) -> None:
        """Raises BadToken, TokenExpired."""
        self._read(state, "oidc", now)

    def new_refresh(self, session_id: UUID) -> str:
        """A refresh token of a session; only its digest is to be kept."""
        body = session_id.bytes + secrets.token_bytes(_SEAL_BYTES)
        return REFRESH_PREFIX + _encode(body + self._seal(body))

    def read_refresh(self, token: str) -> UUID:
        """The session that a refresh token was made for, be it the newest one or not. Raises BadToken."""
        try:
            raw = urlsafe_b64decode(token.removeprefix(REFRESH_PREFIX) + "==")
        except ValueError as error:
            raise BadToken from error
        body, seal = raw[:-_SEAL_BYTES], raw[-_SEAL_BYTES:]
        if len(body) != 2 * _SEAL_BYTES or not hmac.compare_digest(seal, self._seal(body)):
            raise BadToken
        return UUID(bytes=body[:16])

    def derive(self, purpose: str, text: str) -> str:
        """43 characters that only who has the key can tell from the text."""
        return _encode(self._mac(purpose, text.encode()))

    def _seal(self, body: bytes) -> bytes:
        return self._mac("refresh", body)[:_SEAL_BYTES]

    def _mac(self, purpose: str, content: bytes) -> bytes:
        return hmac.digest(self._secret, purpose.encode() + b"\0" + content, "sha256")

    def _sign(self, said: dict[str, Any], audience: str, now: datetime, lifetime: timedelta) -> str:
        issued = int(now.timestamp())
        times = {"iat": issued, "exp": issued + int(lifetime.total_seconds())}
        return jwt.encode({**said, **times, "iss": _ISSUER, "aud": audience}, self._private, _ALGORITHM)

    def _read(self, token: str, audience: str, now: datetime) -> dict[str, Any]:
        # the clock is injected, so the library does not look at its own
        options: Options = {
            "verify_exp": False,
            "verify_iat": False,
            "verify_nbf": False,
            "require": ["exp", "iss", "aud"],
        }
        try:
            said: dict[str, Any] = jwt.decode(
                token, self._public, [_ALGORITHM], audience=audience, issuer=_ISSUER, options=options
            )
            expires = datetime.fromtimestamp(said["exp"], UTC)
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise BadToken from error
        if expires <= now:
            raise TokenExpired
        return said


class SigningKey:
    """The signer of this replica, once the key that all of them share was read or made."""

    def __init__(self) -> None:
        self._signer: TokenSigner | None = None

    async def signer(self, database: Database) -> TokenSigner:
        """Raises DatabaseUnreachable as long as it was never read."""
        if self._signer is None:
            async with database.session() as session:
                secret = await logins.ensure_signing_key(session, secrets.token_bytes(_SECRET_BYTES))
            self._signer = TokenSigner(secret)
        return self._signer


def new_key() -> str:
    """An API key; only its digest is to be kept."""
    return KEY_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def digest_of(secret: str) -> str:
    """How keys and refresh tokens are kept: they are random, so SHA-256 is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")
