"""gluetun's control API, as far as an exit needs it: what it says of the tunnel, and how it is told to move."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import aiohttp

from agent.config.credentials import basic
from agent.config.option_parsing import plain_address
from agent.config.settings import GluetunAccess
from model.errors import ExitplaneError

TIMEOUT_S: Final = 2.0
BODY_MAX_BYTES: Final = 65_536
_TEXT_MAX: Final = 100


class GluetunError(ExitplaneError):
    """gluetun did not do, or say, what it was asked; the message stays the same while it does not."""

    code = "gluetun"


class KeyRefused(GluetunError):
    """It does not let the agent in."""


class GluetunSilent(GluetunError):
    """It cannot be reached, or does not answer in time."""


class BadGluetunAnswer(GluetunError):
    """What it answers is not what is documented."""


class GluetunStatus(StrEnum):
    """What its tunnel may be told to be."""

    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class PublicIp:
    """Where gluetun says that its traffic comes out; `country` is a full name, or None."""

    address: str
    country: str | None = None


class GluetunClient:
    """A client of the control API. Every method raises GluetunError."""

    def __init__(self, access: GluetunAccess, timeout_s: float = TIMEOUT_S) -> None:
        self._access = access
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def status(self) -> str:
        """What it says of its tunnel: `running`, `stopped`, or another word, on the way from one to the other."""
        return _text(await self._ask("GET", "vpn/status"), "status")

    async def set_status(self, status: GluetunStatus) -> None:
        """Start or stop the tunnel."""
        await self._ask("PUT", "vpn/status", {"status": status})

    async def public_ip(self) -> PublicIp | None:
        """Where its traffic comes out; None while it does not know."""
        said = await self._ask("GET", "publicip/ip")
        address, country = said.get("public_ip"), said.get("country")
        if not address:
            return None
        try:
            address = plain_address(address if isinstance(address, str) else "")
        except ValueError as error:
            raise BadGluetunAnswer("gluetun names a public address that is none", hint=_CHECK_URL) from error
        named = isinstance(country, str) and 0 < len(country) <= _TEXT_MAX and country.isprintable()
        return PublicIp(address, country if named else None)

    async def choose_country(self, name: str) -> None:
        """Have it connect to a server in a country, by the full name that its provider has for it."""
        await self._ask("PUT", "vpn/settings", {"provider": {"server_selection": {"countries": [name]}}})

    async def version(self) -> str:
        """Which gluetun it is."""
        return _text(await self._ask("GET", "version"), "version")

    async def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """The JSON object that it answers."""
        headers = {"Accept": "application/json"}
        if self._access.key is not None:
            headers["X-API-Key"] = self._access.key
        if self._access.credentials is not None:
            headers["Authorization"] = basic(self._access.credentials)
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
            raise GluetunSilent("gluetun's control API does not answer in time", hint=_CHECK_URL) from error
        except aiohttp.ClientConnectionError as error:
            raise GluetunSilent("gluetun's control API cannot be reached", hint=_CHECK_URL) from error
        except aiohttp.ClientError as error:
            raise BadGluetunAnswer("gluetun's control API answers what is no HTTP", hint=_CHECK_URL) from error


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
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadGluetunAnswer("gluetun's control API answers what is no JSON", hint=_CHECK_URL) from error
    if not isinstance(said, dict):
        raise BadGluetunAnswer("gluetun's control API answers no JSON object", hint=_CHECK_URL)
    return said


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _TEXT_MAX or not value.isprintable():
        raise BadGluetunAnswer(f"gluetun's control API says no {name}", hint=_CHECK_URL)
    return value
