"""The login at an OIDC provider: authorization code with PKCE (RFC 7636), state and nonce.

Nothing is stored between the two requests. The state is signed, and the verifier and the nonce are derived from it with the
key that all replicas share, so any replica can handle the callback.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import jwt
from cryptography.hazmat.primitives import hashes
from jwt.types import Options

from api.runtime.oauth import (
    LoginRefused,
    OAuthClient,
    ProviderUnavailable,
    build_authorization_url,
    compute_code_challenge,
    fetch_document,
    redeem_code,
)
from api.runtime.tokens import TokenSigner
from model.settings import OidcSettings

_METADATA_LIFETIME: Final = timedelta(hours=1)
_LEEWAY: Final = timedelta(minutes=1)
"""The largest difference between the provider's clock and this one."""
_ALGORITHMS: Final = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_DECODE_OPTIONS: Final[Options] = {
    "require": ["iss", "sub", "aud", "exp", "iat"],
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}
"""Times are checked with the injected clock instead."""
_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class OidcAccount:
    """A user of the provider. `subject` is `issuer#subject`; `role` is what the claims map to, if they map to one."""

    subject: str
    name: str
    role: str | None


@dataclass(frozen=True, slots=True)
class _Metadata:
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    read_at: datetime


class OidcProvider:
    """The provider of the settings. Its metadata is read at the first use, and again after an hour."""

    def __init__(self, settings: OidcSettings) -> None:
        self.settings = settings
        self._client = OAuthClient(settings.client_id, settings.client_secret)
        self._metadata: _Metadata | None = None
        self._keys: jwt.PyJWKSet | None = None
        self._lock = asyncio.Lock()

    async def build_login_url(self, signer: TokenSigner, state: str, redirect_uri: str, now: datetime) -> str:
        """Build the URL that a browser opens to log in. Raises ProviderUnavailable."""
        metadata = await self._read_metadata(now)
        return build_authorization_url(
            metadata.authorization_endpoint,
            {
                "response_type": "code",
                "client_id": self.settings.client_id,
                "redirect_uri": redirect_uri,
                "scope": "openid profile email",
                "state": state,
                "nonce": signer.derive("oidc nonce", state),
                "code_challenge": compute_code_challenge(signer.derive("oidc verifier", state)),
                "code_challenge_method": "S256",
            },
        )

    async def fetch_account(
        self, signer: TokenSigner, state: str, code: str, redirect_uri: str, now: datetime
    ) -> OidcAccount:
        """Redeem a code for the account that it belongs to. Raises ProviderUnavailable, LoginRefused."""
        metadata = await self._read_metadata(now)
        token = await redeem_code(
            metadata.token_endpoint,
            self._client,
            {"code": code, "redirect_uri": redirect_uri, "code_verifier": signer.derive("oidc verifier", state)},
        )
        claims = await self._check(token, signer.derive("oidc nonce", state), metadata, now)
        return OidcAccount(f"{self.settings.issuer}#{claims['sub']}", _make_name(claims), self._find_role(claims))

    async def _check(
        self, token: Mapping[str, Any], nonce: str, metadata: _Metadata, now: datetime
    ) -> Mapping[str, Any]:
        """Check an ID token (OpenID Connect Core 1.0, section 3.1.3.7) and return its claims."""
        signed = token.get("id_token")
        if not isinstance(signed, str):
            raise LoginRefused("the provider sent no ID token")
        try:
            header = jwt.get_unverified_header(signed)
            key = await self._find_key(header.get("kid"), metadata)
            claims: dict[str, Any] = jwt.decode(
                signed,
                key,
                _ALGORITHMS,
                audience=self.settings.client_id,
                issuer=self.settings.issuer,
                options=_DECODE_OPTIONS,
            )
        except jwt.PyJWTError as error:
            raise LoginRefused(f"the ID token is not valid ({error})") from error
        _check_times(claims, now)
        if not hmac.compare_digest(str(claims.get("nonce")).encode(), nonce.encode()):
            raise LoginRefused("the ID token is of another login (nonce)")
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if several else self.settings.client_id) != self.settings.client_id:
            raise LoginRefused("the ID token is for another client (azp)")
        if "at_hash" in claims and claims["at_hash"] != _half_hash(str(token.get("access_token")), header["alg"]):
            raise LoginRefused("the ID token is of another access token (at_hash)")
        return claims

    def _find_role(self, claims: Mapping[str, Any]) -> str | None:
        """Find the highest role that the values of the role claim map to."""
        if self.settings.role_claim is None:
            return None
        found: Any = claims.get(self.settings.role_claim)
        if found is None:
            found = claims
            for part in self.settings.role_claim.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
        values = found if isinstance(found, list) else [found]
        return next((role for role, value in self.settings.roles if value in values), None)

    # -- what the provider publishes -----------------------------------------------------------------------------------

    async def _read_metadata(self, now: datetime) -> _Metadata:
        async with self._lock:
            if self._metadata is None or not timedelta(0) <= now - self._metadata.read_at < _METADATA_LIFETIME:
                self._metadata = await self._fetch_metadata(now)
                self._keys = None
            return self._metadata

    async def _fetch_metadata(self, now: datetime) -> _Metadata:
        document = await fetch_document(self.settings.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if document.get("issuer") != self.settings.issuer:
            raise ProviderUnavailable(f"it calls itself {document.get('issuer')!r}, not {self.settings.issuer!r}")
        names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        for name in names:
            url = document.get(name)
            if _scheme_of(url) not in {"https", urlsplit(self.settings.issuer).scheme}:
                raise ProviderUnavailable(f"its {name} is {url!r}")
        return _Metadata(**{name: document[name] for name in names}, read_at=now)

    async def _find_key(self, key_id: object, metadata: _Metadata) -> jwt.PyJWK:
        """Find the key that signed an ID token. The key set is fetched again for a key that is not in it."""
        async with self._lock:
            key = _find(self._keys, key_id)
            if key is None:
                try:
                    self._keys = jwt.PyJWKSet.from_dict(await fetch_document(metadata.jwks_uri))
                except (jwt.PyJWTError, AttributeError, TypeError) as error:
                    raise ProviderUnavailable(f"its keys cannot be read ({error})") from error
                key = _find(self._keys, key_id)
        if key is None:
            raise LoginRefused("the ID token is signed with a key that the provider does not publish")
        return key


def _scheme_of(url: object) -> str | None:
    try:
        return urlsplit(url).scheme if isinstance(url, str) else None
    except ValueError:
        return None


def _find(keys: jwt.PyJWKSet | None, key_id: object) -> jwt.PyJWK | None:
    usable = [key for key in (keys.keys if keys else []) if key.public_key_use in (None, "sig")]
    if key_id is None:
        return usable[0] if len(usable) == 1 else None
    return next((key for key in usable if key.key_id == key_id), None)


def _check_times(claims: Mapping[str, Any], now: datetime) -> None:
    timestamp, leeway = now.timestamp(), _LEEWAY.total_seconds()
    times = [claims["exp"], claims["iat"], claims.get("nbf", 0)]
    if not all(isinstance(each, int | float) for each in times):
        raise LoginRefused("the ID token's times are not numbers")
    expires, issued, begins = times
    if expires <= timestamp - leeway or max(issued, begins) > timestamp + leeway:
        raise LoginRefused("the ID token has expired, or is not valid yet")


def _half_hash(access_token: str, algorithm: str) -> str:
    """Compute `at_hash` (OpenID Connect Core 1.0, section 3.1.3.6). EdDSA uses the SHA-512 of Ed25519."""
    digest = hashes.Hash(_HASHES.get(algorithm[-3:], hashes.SHA512()))
    digest.update(access_token.encode())
    whole = digest.finalize()
    return urlsafe_b64encode(whole[: len(whole) // 2]).decode().rstrip("=")


def _make_name(claims: Mapping[str, Any]) -> str:
    """Convert an account's name to a valid operator name that is close to it."""
    preferred = claims.get("preferred_username") or str(claims.get("email", "")).partition("@")[0]
    name = _NOT_IN_NAMES.sub("-", str(preferred).lower())[:50].strip("-") or "operator"
    try:
        UUID(name)
    except ValueError:
        return name
    return f"account-{name}"  # a name must not look like an id
