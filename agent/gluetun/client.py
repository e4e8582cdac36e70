"""A client of gluetun's control API: the tunnel's state and public address, and the choice of another server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import aiohttp

from agent.config.credentials import basic_authorization
from agent.config.option_parsing import canonical_address
from agent.config.settings import GluetunAccess
from model.errors import ExitplaneError

TIMEOUT_S: Final = 2.0
BODY_MAX_BYTES: Final = 65_536
_TEXT_MAX: Final = 100


class GluetunError(ExitplaneError):
    """gluetun did not answer or obey. The message stays the same while the cause does."""

    code = "gluetun"


class KeyRefused(GluetunError):
    """gluetun refuses the agent's key or credentials."""


class GluetunUnreachable(GluetunError):
    """gluetun cannot be reached, or does not answer in time."""


class BadGluetunAnswer(GluetunError):
    """gluetun answers something that its API does not document."""


class GluetunStatus(StrEnum):
    """The states that the tunnel can be put into."""

    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class PublicIp:
    """The public address that gluetun reports. `country` is a full name, or None."""

    address: str
    country: str | None = None


class GluetunClient:
    """A client of the control API. Its methods raise GluetunError."""

    def __init__(self, access: GluetunAccess, timeout_s: float = TIMEOUT_S) -> None:
        self._access = access
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def status(self) -> str:
        """Return the tunnel's state: `running`, `stopped`, or another word in between."""
        return _text(await self._ask("GET", "vpn/status"), "status")

    async def set_status(self, status: GluetunStatus) -> None:
        """Start or stop the tunnel."""
        await self._ask("PUT", "vpn/status", {"status": status})

    async def public_ip(self) -> PublicIp | None:
        """Return the public address, or None while gluetun does not know it."""
        answer = await self._ask("GET", "publicip/ip")
        address, country = answer.get("public_ip"), answer.get("country")
        if not address:
            return None
        try:
            address = canonical_address(address if isinstance(address, str) else "")
        except ValueError as error:
            raise BadGluetunAnswer("gluetun reports a public address that is no IP address", hint=_CHECK_URL) from error
        is_name = isinstance(country, str) and 0 < len(country) <= _TEXT_MAX and country.isprintable()
        return PublicIp(address, country if is_name else None)

    async def choose_country(self, name: str) -> None:
        """Have gluetun connect to a server in a country, given by the provider's full name for it."""
        await self._ask("PUT", "vpn/settings", {"provider": {"server_selection": {"countries": [name]}}})

    async def version(self) -> str:
        """Return gluetun's version."""
        return _text(await self._ask("GET", "version"), "version")

    async def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Send a request and return the JSON object of the answer."""
        headers = {"Accept": "application/json"}
        if self._access.key is not None:
            headers["X-API-Key"] = self._access.key
        if self._access.credentials is not None:
            headers["Authorization"] = basic_authorization(self._access.credentials)
        connector = aiohttp.TCPConnector(force_close=True)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=self._timeout) as session,
                session.request(
                    method, self._access.url / "v1" / path, json=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                return _read(response.status, await _body(response))
        except TimeoutError as error:
            raise GluetunUnreachable("gluetun's control API does not answer in time", hint=_CHECK_URL) from error
        except aiohttp.ClientConnectionError as error:
            raise GluetunUnreachable("gluetun's control API cannot be reached", hint=_CHECK_URL) from error
        except aiohttp.ClientError as error:
            raise BadGluetunAnswer("gluetun's control API answers no HTTP", hint=_CHECK_URL) from error


_CHECK_URL: Final = "check --gluetun, and gluetun's HTTP_CONTROL_SERVER_ADDRESS"
_CHECK_KEY: Final = "check --gluetun-key-file or --gluetun-credentials, and the roles in gluetun's auth/config.toml"


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    while more := await response.content.read(BODY_MAX_BYTES + 1 - len(body)):
        body += more
        if len(body) > BODY_MAX_BYTES:
            raise BadGluetunAnswer("gluetun's control API answers too much", hint=_CHECK_URL)
    return body


def _read(status: int, body: bytes) -> dict[str, Any]:
    if status in {401, 403}:
        raise KeyRefused("gluetun's control API refuses the agent's key or credentials", hint=_CHECK_KEY)
    if status != 200:
        raise BadGluetunAnswer(f"gluetun's control API answers {status}", hint=_CHECK_URL)
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadGluetunAnswer("gluetun's control API answers no JSON", hint=_CHECK_URL) from error
    if not isinstance(answer, dict):
        raise BadGluetunAnswer("gluetun's control API answers no JSON object", hint=_CHECK_URL)
    return answer


def _text(answer: dict[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _TEXT_MAX or not value.isprintable():
        raise BadGluetunAnswer(f"gluetun's control API gives no {name}", hint=_CHECK_URL)
    return value
