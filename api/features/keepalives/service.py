"""Keepalives of VPN Sentinel's clients, parsed as leniently as its own server does: odd values never refuse a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Final

from api.features.keepalives.schemas import KeepaliveOut, SentinelClientOut
from api.http.field_errors import FieldError
from api.http.problems import Problem
from api.kernel.caller import Caller
from api.kernel.context import ApiContext
from model.repositories import keepalives

_CLIENT_ID: Final = re.compile(r"[a-zA-Z0-9._-]{1,100}")
_TEXT_MAX: Final = 100
_UNKNOWN: Final = "Unknown"
_NO_ADDRESS: Final = "unknown"
_CLIENTS: Final = "VPN Sentinel's clients, who belong to no fleet,"
_LOCATION_FIELDS: Final = {
    "country": "country",
    "city": "city",
    "region": "region",
    "org": "provider",
    "timezone": "timezone",
}
"""Names within `location`, mapped to those of the flat form and of the status."""
_DNS_FIELDS: Final = {"location": "dns_loc", "colo": "dns_colo"}


async def receive(context: ApiContext, caller: Caller, body: Any) -> KeepaliveOut:
    """Store a client's keepalive. Raises Problem: 400, 403."""
    caller.demand_all_fleets(_CLIENTS)
    if not isinstance(body, dict):
        raise Problem(400, "invalid", "the body is not a JSON object", hint="send a JSON object with a client_id")
    now = context.clock()
    async with context.database.session() as session:
        await keepalives.store(session, _client_id(body), _parse(body), now)
    return KeepaliveOut(server_time=now)


async def status(context: ApiContext, caller: Caller) -> dict[str, SentinelClientOut]:
    """Return the last keepalive of every client, by client id. Raises Problem (403)."""
    caller.demand_all_fleets(_CLIENTS)
    async with context.database.session() as session:
        received = await keepalives.newest(session)
    return {client_id: _show(at, fields) for client_id, at, fields in received}


def _client_id(body: Mapping[str, Any]) -> str:
    given = body.get("client_id")
    client_id = given.strip() if isinstance(given, str) else ""
    if not _CLIENT_ID.fullmatch(client_id):
        message, hint = "this is not a client id", "send 1 to 100 letters, digits, hyphens, dots and underscores"
        raise Problem(400, "invalid", message, errors=[FieldError("/client_id", message, hint, given)])
    return client_id


def _parse(body: Mapping[str, Any]) -> dict[str, str]:
    fields = {"ip": _address(body.get("public_ip") or body.get("ip"))}
    fields |= _group(body, "location", "country", _LOCATION_FIELDS)
    fields |= _group(body, "dns_test", "location", _DNS_FIELDS)
    return fields | {"client_version": _text(body.get("client_version"))}


def _group(body: Mapping[str, Any], name: str, needed: str, names: Mapping[str, str]) -> dict[str, str]:
    """Read a group of fields from its nested object, or from the flat form when that lacks the `needed` field."""
    nested = body.get(name)
    if isinstance(nested, dict) and needed in nested:
        return {flat: _text(nested.get(key)) for key, flat in names.items()}
    return {flat: _text(body.get(flat)) for flat in names.values()}


def _text(value: object) -> str:
    if not isinstance(value, str):
        return _UNKNOWN
    # also removes unpaired surrogates and NUL, which PostgreSQL does not accept
    printable = "".join(character for character in value[: 4 * _TEXT_MAX] if character.isprintable())
    return printable.strip()[:_TEXT_MAX] or _UNKNOWN


def _address(value: object) -> str:
    try:
        return str(ip_address(value.strip() if isinstance(value, str) and "%" not in value else ""))
    except ValueError:
        return _NO_ADDRESS


def _show(at: datetime, fields: Mapping[str, str]) -> SentinelClientOut:
    location = f"{fields['city']}, {fields['region']}, {fields['country']}"
    return SentinelClientOut.model_validate({"last_seen": at, "location": location, **fields})
