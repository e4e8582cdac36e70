"""The collection /exits."""

from __future__ import annotations

from fastapi import APIRouter

from api.bodies import JsonRoute
from api.context import Context
from api.exits import service
from api.exits.schemas import ExitIn, ExitList, ExitOut, ExitPatch
from api.guard_rails import Approve
from api.heartbeats.service import removed
from api.openapi import for_operators, written
from api.values import Filter, Id
from api.writes import Writing

router = APIRouter(prefix="/exits", tags=["exits"], route_class=JsonRoute)


@router.post("", status_code=201, responses=written(409))
async def create_exit(wish: ExitIn, context: Context, write: Writing) -> ExitOut:
    """Declare an exit. It is offered to clients once it was heard of."""
    async with write.unit() as unit:
        made = await service.create(unit, wish, context.clock())
    write.locate(f"exits/{made.id}")
    return made


@router.get("", responses=for_operators(422))
async def list_exits(context: Context, pool: Filter = None, fleet: Filter = None) -> ExitList:
    """Every exit, or those of a pool or a fleet, by fleet, pool and name."""
    async with context.database.session() as session:
        return ExitList(items=await service.show_all(session, pool, fleet))


@router.get("/{exit_id}", responses=for_operators(404))
async def read_exit(exit_id: Id, context: Context) -> ExitOut:
    """An exit, with its state."""
    async with context.database.session() as session:
        return await service.show(session, exit_id)


@router.patch("/{exit_id}", responses=written(404, 409))
async def change_exit(
    exit_id: Id, patch: ExitPatch, context: Context, write: Writing, approve: Approve = None
) -> ExitOut:
    """Change what the body names and leave the rest. An exit stays in its fleet."""
    async with write.unit() as unit:
        return await service.change(unit, exit_id, patch, context.clock(), approve)


@router.delete("/{exit_id}", status_code=204, responses=for_operators(404, 409, 422))
async def delete_exit(exit_id: Id, context: Context, write: Writing, approve: Approve = None) -> None:
    """Remove an exit and deregister its Envoy: its certificates are worth nothing any more."""
    async with write.unit() as unit:
        proxy_id = await service.remove(unit, exit_id, approve)
    removed(context, proxy_id)
