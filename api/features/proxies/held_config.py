"""What a proxy holds: asked of the replica of the xDS server that it has its stream with."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

from api.features.proxies.schemas import ConfigOut, ContentOut, HoldingOut, TypeOut
from api.features.proxies.service import PROXIES, show_sync
from api.kernel.caller import Caller
from model.database import Database
from model.repositories import config_requests, sync
from xds.snapshot.order import ADDITIONS
from xds.translate import names
from xds.translate.json_view import as_json

_ANSWER_WITHIN_S: Final = 2.0
_LOOK_EVERY_S: Final = 0.02
_ORDER: Final = {type_url: place for place, type_url in enumerate(ADDITIONS)}


async def show(database: Database, caller: Caller, ref: str, *, resource: str | None, differences: bool) -> ConfigOut:
    """What a proxy holds of all it asks for, or of what has one name, or of what differs. Raises Problem (404)."""
    async with database.session() as session:
        proxy = await PROXIES.find(session, caller, ref)
        standings = await sync.of_proxy(session, proxy.id)
    connected = any(row.replica is not None for row in standings)
    answer = await _ask(database, proxy.id, resource) if connected else None
    types = sorted(answer["types"] if answer else (), key=lambda each: _ORDER[each["type_url"]])
    return ConfigOut(
        proxy_id=proxy.id,
        answered=answer is not None,
        in_sync=None if answer is None else not any(_differs(it) for each in types for it in each["resources"]),
        types=[
            TypeOut(
                type_url=each["type_url"],
                resources=[
                    _show(each["type_url"], it)
                    for it in each["resources"]
                    if resource in (None, it["name"]) and (_differs(it) or not differences)
                ],
            )
            for each in types
        ],
        sync=[show_sync(row) for row in standings],
    )


def _differs(holding: Mapping[str, Any]) -> bool:
    return bool(holding["progress"] != "held")


def _show(type_url: str, holding: Mapping[str, Any]) -> HoldingOut:
    content = holding.get("content") if type_url != names.SECRET else None
    return HoldingOut(
        name=holding["name"],
        progress=holding["progress"],
        wanted=holding["wanted"],
        held=holding["held"],
        reason=holding["reason"],
        content=content
        and ContentOut(**{key: body and as_json(type_url, b64decode(body)) for key, body in content.items()}),
    )


async def _ask(database: Database, proxy_id: UUID, resource: str | None) -> Mapping[str, Any] | None:
    """The answer of the replica that has the proxy's stream; None when none comes in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _ANSWER_WITHIN_S
    async with _question(database, proxy_id, resource) as question:
        while loop.time() < deadline:
            async with database.session() as session:
                answer = await config_requests.find_answer(session, question)
            if answer is not None:
                return answer
            await asyncio.sleep(_LOOK_EVERY_S)
    return None


@asynccontextmanager
async def _question(database: Database, proxy_id: UUID, resource: str | None) -> AsyncIterator[UUID]:
    async with database.session() as session:
        question = await config_requests.add(session, proxy_id, resource)
    try:
        yield question
    finally:
        async with database.session() as session:
            await config_requests.delete_request(session, question)
