"""The collection /fleets."""

from __future__ import annotations

from fastapi import APIRouter

from api.bodies import JsonRoute
from api.context import Context
from api.fleets import service
from api.fleets.schemas import FleetIn, FleetList, FleetOut, FleetPatch
from api.openapi import for_operators, written
from api.values import Ref
from api.writes import Writing

router = APIRouter(prefix="/fleets", tags=["fleets"], route_class=JsonRoute)


@router.post("", status_code=201, responses=written(409))
async def create_fleet(wish: FleetIn, context: Context, write: Writing) -> FleetOut:
    """Declare a fleet with its listener."""
    async with write.unit() as unit:
        fleet = await service.create(unit, wish, context.clock())
    write.locate(f"fleets/{fleet.id}")
    return fleet


@router.get("", responses=for_operators())
async def list_fleets(context: Context) -> FleetList:
    """Every fleet, by name."""
    async with context.database.session() as session:
        return FleetList(items=await service.show_all(session))


@router.get("/{fleet}", responses=for_operators(404))
async def read_fleet(fleet: Ref, context: Context) -> FleetOut:
    """A fleet by its id or name."""
    async with context.database.session() as session:
        return await service.show(session, fleet)


@router.patch("/{fleet}", responses=written(404, 409))
async def change_fleet(fleet: Ref, patch: FleetPatch, write: Writing) -> FleetOut:
    """Change what the body names and leave the rest."""
    async with write.unit() as unit:
        return await service.change(unit, fleet, patch)


@router.delete("/{fleet}", status_code=204, responses=for_operators(404, 409))
async def delete_fleet(fleet: Ref, write: Writing) -> None:
    """Remove a fleet that has neither pools nor proxies."""
    async with write.unit() as unit:
        await service.remove(unit, fleet)
