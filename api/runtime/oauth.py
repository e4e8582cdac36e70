"""The HTTP client of an OIDC provider: published documents, and codes redeemed for tokens (RFC 6749, RFC 7636).

Requests are bounded in time and in the size of the response. Redirects are not followed, because codes and keys belong only
to the addresses that the provider publishes.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

TIMEOUT_S: Final = 10.0
BODY_MAX_BYTES: Final = 2**20
_CHUNK_BYTES: Final = 65_536
_ERROR_MAX_CHARACTERS: Final = 100
_SERVER_ERROR: Final = 500


class ProviderUnavailable(Exception):
    """The provider does not respond, or its response is not valid."""


class LoginRefused(Exception):
    """The provider's response does not prove an identity. The text gives the reason, without a secret."""


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """A client that is registered at the provider. One without a secret is public (RFC 6749, section 2.1)."""

    id: str
    secret: str | None = field(default=None, repr=False)


def build_authorization_url(endpoint: str, parameters: Mapping[str, str]) -> str:
    """Add parameters to the authorization endpoint and keep its own query (RFC 6749, section 3.1)."""
    parts = urlsplit(endpoint)
    added = urlencode(parameters, quote_via=quote)
    return urlunsplit(parts._replace(query=f"{parts.query}&{added}" if parts.query else added))


def compute_code_challenge(verifier: str) -> str:
    """Compute the S256 challenge of a PKCE verifier (RFC 7636, section 4.2)."""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


async def fetch_document(url: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Read a JSON object that the provider publishes. Raises ProviderUnavailable."""
    status, body = await _request("GET", url, timeout_s)
    return _read_success(url, status, body)


async def redeem_code(
    endpoint: str, client: OAuthClient, parameters: Mapping[str, str], timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """Redeem an authorization code at the token endpoint, and return its response (RFC 6749, section 4.1.3).

    Raises LoginRefused when the provider refuses the code, ProviderUnavailable for any other failure.
    """
    form = {"grant_type": "authorization_code", **parameters}
    headers = {}
    if client.secret:
        headers["Authorization"] = _encode_client(client.id, client.secret)
    else:
        form["client_id"] = client.id
    status, body = await _request("POST", endpoint, timeout_s, headers, form)
    answer = _read_object(body)
    if status < _SERVER_ERROR and answer is not None and "error" in answer:
        raise LoginRefused(f"the provider refused the code ({str(answer['error'])[:_ERROR_MAX_CHARACTERS]})")
    return _read_success(endpoint, status, body)


def _encode_client(client_id: str, secret: str) -> str:
    """Encode the header of `client_secret_basic`; both parts are form-encoded first (RFC 6749, section 2.3.1).

    A space becomes %20 instead of +, which providers that only decode percent signs understand too.
    """
    pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
    return f"Basic {b64encode(pair.encode()).decode()}"


async def _request(
    method: str,
    url: str,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Send a request, and return the status and body of any response. Raises ProviderUnavailable."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    accepted = {"Accept": "application/json", **(headers or {})}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(
                method, url, headers=accepted, data=form, allow_redirects=False, proxy=_find_proxy(url)
            ) as response,
        ):
            return response.status, await _read_body(response, url)
    except TimeoutError as error:
        raise ProviderUnavailable(f"{url}: no answer within {timeout_s:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ProviderUnavailable(f"{url}: {str(error) or type(error).__name__}") from error


def _find_proxy(url: str) -> str | None:
    """Find the proxy for an address in HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.

    aiohttp's `trust_env` finds it too, but also sends credentials from ~/.netrc.
    """
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


async def _read_body(response: aiohttp.ClientResponse, url: str) -> bytes:
    pieces, size = [], 0
    async for piece in response.content.iter_chunked(_CHUNK_BYTES):
        size += len(piece)
        if size > BODY_MAX_BYTES:
            raise ProviderUnavailable(f"{url} answers more than {BODY_MAX_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _read_success(url: str, status: int, body: bytes) -> dict[str, Any]:
    """Read the JSON object in a 2xx response of any content type. Raises ProviderUnavailable."""
    if not 200 <= status < 300:
        raise ProviderUnavailable(f"{url} answers {status}")
    answer = _read_object(body)
    if answer is None:
        raise ProviderUnavailable(f"{url} answers no JSON object")
    return answer


def _read_object(body: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
