"""Hears VPN Sentinel's clients as its own server does: what is odd is cut or counts as unknown, and is no reason to refuse."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Final

from api.features.keepalives.schemas import ClientOut, KeepaliveOut
from api.http.field_errors import FieldError
from api.http.problems import Problem
from api.kernel.caller import Caller
from api.kernel.context import ApiContext
from model.repositories import keepalives

_CLIENT_ID: Final = re.compile(r"[a-zA-Z0-9._-]{1,100}")
_LONGEST: Final = 100
_UNKNOWN: Final = "Unknown"
_NO_ADDRESS: Final = "unknown"
_CLIENTS: Final = "VPN Sentinel's clients, who are of no fleet,"
_PLACE: Final = {"country": "country", "city": "city", "region": "region", "org": "provider", "timezone": "timezone"}
"""Names within `location`, and in the flat form and the status."""
_DNS: Final = {"location": "dns_loc", "colo": "dns_colo"}


async def hear(context: ApiContext, caller: Caller, body: Any) -> KeepaliveOut:
    """Keep what a client says. Raises Problem: 400, 403."""
    caller.demand_all_fleets(_CLIENTS)
    if not isinstance(body, dict):
        raise Problem(400, "invalid", "the body is no object", hint="send a JSON object with a client_id")
    now = context.clock()
    async with context.database.session() as session:
        await keepalives.store(session, _client_id(body), _said(body), now)
    return KeepaliveOut(server_time=now)


async def status(context: ApiContext, caller: Caller) -> dict[str, ClientOut]:
    """All clients by id. Raises Problem (403)."""
    caller.demand_all_fleets(_CLIENTS)
    async with context.database.session() as session:
        heard = await keepalives.newest(session)
    return {client_id: _show(at, said) for client_id, at, said in heard}


def _client_id(body: Mapping[str, Any]) -> str:
    given = body.get("client_id")
    client_id = given.strip() if isinstance(given, str) else ""
    if not _CLIENT_ID.fullmatch(client_id):
        message, hint = "this is no client id", "send 1 to 100 letters, digits, hyphens, dots and underscores"
        raise Problem(400, "invalid", message, errors=[FieldError("/client_id", message, hint, given)])
    return client_id


def _said(body: Mapping[str, Any]) -> dict[str, str]:
    said = {"ip": _address(body.get("public_ip") or body.get("ip"))}
    said |= _group(body, "location", "country", _PLACE)
    said |= _group(body, "dns_test", "location", _DNS)
    return said | {"client_version": _text(body.get("client_version"))}


def _group(body: Mapping[str, Any], name: str, needed: str, names: Mapping[str, str]) -> dict[str, str]:
    """What stands in an object of its own, or flat where that is missing."""
    nested = body.get(name)
    if isinstance(nested, dict) and needed in nested:
        return {flat: _text(nested.get(key)) for key, flat in names.items()}
    return {flat: _text(body.get(flat)) for flat in names.values()}


def _text(value: object) -> str:
    if not isinstance(value, str):
        return _UNKNOWN
    # also unpaired surrogates and NUL, which PostgreSQL does not take
    printable = "".join(character for character in value[: 4 * _LONGEST] if character.isprintable())
    return printable.strip()[:_LONGEST] or _UNKNOWN


def _address(value: object) -> str:
    try:
        return str(ip_address(value.strip() if isinstance(value, str) and "%" not in value else ""))
    except ValueError:
        return _NO_ADDRESS


def _show(at: datetime, said: Mapping[str, str]) -> ClientOut:
    place = f"{said['city']}, {said['region']}, {said['country']}"
    return ClientOut.model_validate({"last_seen": at, "location": place, **said})
