"""The configuration that a proxy holds. The replica of the xDS server that has the proxy's stream answers."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

from api.features.proxies.schemas import ConfigOut, ContentOut, ResourceSyncOut, TypeConfigOut
from api.features.proxies.service import PROXIES, show_sync
from api.kernel.caller import Caller
from model.database import Database
from model.repositories import config_requests, sync
from xds.snapshot.order import ADDITIONS
from xds.translate import names
from xds.translate.json_view import as_json

_ANSWER_TIMEOUT_S: Final = 2.0
_POLL_INTERVAL_S: Final = 0.02
_ACCEPTED: Final = "accepted"
"""The xDS server's `SyncState` of a resource that the proxy accepted in its desired version."""
_ORDER: Final = {type_url: position for position, type_url in enumerate(ADDITIONS)}


async def show(database: Database, caller: Caller, ref: str, *, resource: str | None, differences: bool) -> ConfigOut:
    """Show a proxy's resources: all, the one named `resource`, or those that differ. Raises Problem (404)."""
    async with database.session() as session:
        proxy = await PROXIES.find(session, caller, ref)
        states = await sync.of_proxy(session, proxy.id)
    connected = any(row.replica is not None for row in states)
    answer = await _ask(database, proxy.id, resource) if connected else None
    types = sorted(answer["types"] if answer else (), key=lambda each: _ORDER[each["type_url"]])
    return ConfigOut(
        proxy_id=proxy.id,
        answered=answer is not None,
        in_sync=None if answer is None else not any(_differs(it) for each in types for it in each["resources"]),
        types=[
            TypeConfigOut(
                type_url=each["type_url"],
                resources=[
                    _show(each["type_url"], it)
                    for it in each["resources"]
                    if resource in (None, it["name"]) and (_differs(it) or not differences)
                ],
            )
            for each in types
        ],
        sync=[show_sync(row) for row in states],
    )


def _differs(holding: Mapping[str, Any]) -> bool:
    return bool(holding["status"] != _ACCEPTED)


def _show(type_url: str, holding: Mapping[str, Any]) -> ResourceSyncOut:
    content = holding.get("content") if type_url != names.SECRET else None
    return ResourceSyncOut(
        name=holding["name"],
        status=holding["status"],
        desired=holding["desired"],
        accepted=holding["accepted"],
        reason=holding["reason"],
        content=content
        and ContentOut(
            desired=_decode(type_url, content["desired"]),
            accepted=_decode(type_url, content["accepted"]),
        ),
    )


def _decode(type_url: str, body: str | None) -> dict[str, Any] | None:
    return None if body is None else as_json(type_url, b64decode(body))


async def _ask(database: Database, proxy_id: UUID, resource: str | None) -> Mapping[str, Any] | None:
    """Return the answer of the replica that has the proxy's stream; None after a timeout."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _ANSWER_TIMEOUT_S
    async with _posted_request(database, proxy_id, resource) as request_id:
        while loop.time() < deadline:
            async with database.session() as session:
                answer = await config_requests.find_answer(session, request_id)
            if answer is not None:
                return answer
            await asyncio.sleep(_POLL_INTERVAL_S)
    return None


@asynccontextmanager
async def _posted_request(database: Database, proxy_id: UUID, resource: str | None) -> AsyncIterator[UUID]:
    async with database.session() as session:
        request_id = await config_requests.add(session, proxy_id, resource)
    try:
        yield request_id
    finally:
        async with database.session() as session:
            await config_requests.delete_request(session, request_id)
