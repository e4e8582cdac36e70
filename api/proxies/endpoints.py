"""The collection /proxies."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.bodies import JsonRoute
from api.context import Context
from api.heartbeats.service import removed
from api.openapi import for_operators, written
from api.proxies import config, service
from api.proxies.schemas import ConfigOut, ProxyList, ProxyOut, ProxyPatch
from api.values import Filter, Id
from api.writes import Writing

Resource = Annotated[
    str | None,
    Query(max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$", description="Only this one, with its content as JSON."),
]
Differences = Annotated[bool, Query(description="Only what differs.")]
router = APIRouter(prefix="/proxies", tags=["proxies"], route_class=JsonRoute)


@router.get("", responses=for_operators(422))
async def list_proxies(context: Context, fleet: Filter = None) -> ProxyList:
    """Every proxy, or those of a fleet, by fleet, role and name."""
    async with context.database.session() as session:
        return ProxyList(items=await service.show_all(session, fleet, context.clock() - context.silence_timeout))


@router.get("/{proxy_id}", responses=for_operators(404))
async def read_proxy(proxy_id: Id, context: Context) -> ProxyOut:
    """A proxy, with its last heartbeat, and what it accepted and rejected."""
    async with context.database.session() as session:
        return await service.show(session, proxy_id, context.clock() - context.silence_timeout)


@router.get("/{proxy_id}/config", responses=for_operators(404, 422))
async def read_config(
    proxy_id: Id, context: Context, *, resource: Resource = None, differences: Differences = False
) -> ConfigOut:
    """The resources that the proxy holds, and the difference to what it should hold, as of now."""
    return await config.show(context.database, proxy_id, resource=resource, differences=differences)


@router.patch("/{proxy_id}", responses=written(404, 409))
async def change_proxy(proxy_id: Id, patch: ProxyPatch, context: Context, write: Writing) -> ProxyOut:
    """Change what the body names of a gateway and leave the rest. It keeps its certificates and open connections."""
    async with write.unit() as unit:
        return await service.change(unit, proxy_id, patch, context.clock() - context.silence_timeout)


@router.delete("/{proxy_id}", status_code=204, responses=for_operators(404, 409))
async def delete_proxy(proxy_id: Id, context: Context, write: Writing) -> None:
    """Deregister a gateway: its certificates are worth nothing any more."""
    async with write.unit() as unit:
        gone = await service.remove(unit, proxy_id)
    removed(context, gone)
