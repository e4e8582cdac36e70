"""A small, conforming OIDC provider: discovery, authorization endpoint, token endpoint with PKCE, JWKS."""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qs, quote, unquote_plus, urlencode, urlsplit

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT, SECRET = "exitplane", "s e/c+r:e%t"


@cache
def signing_key() -> rsa.RSAPrivateKey:
    """Make the key of all providers of a process, at its first use: it takes longer than most tests."""
    return rsa.generate_private_key(65537, 2048)


def hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def encoded(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")


@dataclass
class Provider:
    """A provider for tests. `claims` overrides claims of ID tokens (None omits one), `answer` the token response."""

    clock: Callable[[], datetime]
    issuer: str = ""
    subject: str = "248289761001"
    claims: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    sign: Callable[[dict[str, Any]], str] | None = None
    key: rsa.RSAPrivateKey = field(default_factory=signing_key)
    key_id: str = "k-1"
    client: str = CLIENT
    secret: str | None = SECRET
    answer: Callable[[], web.Response] | None = None
    down: bool = False
    requests: list[str] = field(default_factory=list)
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def authorize(self, url: str) -> dict[str, str]:
        """Return the callback query after the account agreed at the authorization URL."""
        given = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert url.startswith(f"{self.issuer}/authorize?")
        assert (given["response_type"], given["client_id"]) == ("code", self.client)
        assert given["code_challenge_method"] == "S256"
        assert "openid" in given["scope"].split()
        code = secrets.token_urlsafe(8)
        self._codes[code] = given
        return {"code": code, "state": given["state"], "iss": self.issuer}

    async def discover(self, _: web.Request) -> web.Response:
        self.requests.append("metadata")
        if self.down:
            raise web.HTTPServiceUnavailable
        metadata = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
        }
        return web.json_response(metadata | self.metadata)

    async def keys(self, _: web.Request) -> web.Response:
        self.requests.append("keys")
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return web.json_response({"keys": [public | {"kid": self.key_id, "use": "sig", "alg": "RS256"}]})

    @staticmethod
    def _read_client(request: web.Request, client_id: str) -> tuple[str, str | None]:
        """Return client id and secret of a request; a public client has no secret (RFC 6749, section 2.3.1)."""
        given = request.headers.get("Authorization")
        if given is None:
            return client_id, None
        user, _, password = b64decode(given.removeprefix("Basic ")).decode().partition(":")
        return unquote_plus(user), unquote_plus(password)

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        if self.answer is not None:
            return self.answer()
        if self._read_client(request, str(form.get("client_id"))) != (self.client, self.secret):
            return web.json_response({"error": "invalid_client"}, status=401)
        given = self._codes.pop(str(form.get("code")), None)
        verified = given and encoded(hashed(str(form.get("code_verifier")))) == given["code_challenge"]
        if not given or not verified or form.get("redirect_uri") != given["redirect_uri"]:
            return web.json_response({"error": "invalid_grant"}, status=400)
        now, access = int(self.clock().timestamp()), secrets.token_urlsafe(8)
        claims = {"iss": self.issuer, "sub": self.subject, "aud": self.client, "exp": now + 300, "iat": now}
        claims |= {"nonce": given["nonce"], "at_hash": encoded(hashed(access)[:16]), "preferred_username": "Ada L."}
        claims = {name: value for name, value in (claims | self.claims).items() if value is not None}
        token = self.sign(claims) if self.sign else jwt.encode(claims, self.key, "RS256", headers={"kid": self.key_id})
        return web.json_response({"access_token": access, "token_type": "Bearer", "expires_in": 300, "id_token": token})


@asynccontextmanager
async def run_provider(clock: Callable[[], datetime]) -> AsyncIterator[Provider]:
    """Run a provider on loopback."""
    provider = Provider(clock)
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", provider.discover)
    app.router.add_get("/keys", provider.keys)
    app.router.add_post("/token", provider.token)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider.issuer = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield provider
    finally:
        await runner.cleanup()


def query_of(parameters: dict[str, str]) -> str:
    return urlencode(parameters, quote_via=quote)
