"""The collection /pools."""

from __future__ import annotations

from fastapi import APIRouter

from api.bodies import JsonRoute
from api.context import Context
from api.guard_rails import Approve
from api.openapi import for_operators, written
from api.pools import service
from api.pools.schemas import PoolIn, PoolList, PoolOut, PoolPatch
from api.values import Filter, Ref
from api.writes import Writing

router = APIRouter(prefix="/pools", tags=["pools"], route_class=JsonRoute)


@router.post("", status_code=201, responses=written(409))
async def create_pool(wish: PoolIn, context: Context, write: Writing) -> PoolOut:
    """Declare a pool for a country."""
    async with write.unit() as unit:
        pool = await service.create(unit, wish, context.clock())
    write.locate(f"pools/{pool.id}")
    return pool


@router.get("", responses=for_operators(422))
async def list_pools(context: Context, fleet: Filter = None) -> PoolList:
    """Every pool, or those of a fleet, by fleet and name."""
    async with context.database.session() as session:
        return PoolList(items=await service.show_all(session, fleet))


@router.get("/{pool}", responses=for_operators(404, 409, 422))
async def read_pool(pool: Ref, context: Context, fleet: Filter = None) -> PoolOut:
    """A pool by its id, or by its name (with `fleet` where fleets share it)."""
    async with context.database.session() as session:
        return await service.show(session, pool, fleet)


@router.patch("/{pool}", responses=written(404, 409))
async def change_pool(pool: Ref, patch: PoolPatch, write: Writing, fleet: Filter = None) -> PoolOut:
    """Change what the body names and leave the rest. A pool stays in its fleet."""
    async with write.unit() as unit:
        return await service.change(unit, pool, fleet, patch)


@router.delete("/{pool}", status_code=204, responses=for_operators(404, 409, 422))
async def delete_pool(pool: Ref, write: Writing, fleet: Filter = None, approve: Approve = None) -> None:
    """Remove a pool that has no exits."""
    async with write.unit() as unit:
        await service.remove(unit, pool, fleet, approve)
