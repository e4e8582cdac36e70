"""GET /exits/best: the best exit of a country at this moment."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api.features.exits.schemas import ExitOut
from api.features.exits.service import EXITS
from api.http.field_types import Country
from api.http.openapi import document_operator_errors
from api.http.request_body import JsonRoute
from api.kernel.caller import Caller, Permission
from api.kernel.collections.router import OfFleet
from api.kernel.context import Context

router = APIRouter(prefix="/exits", tags=["exits"], route_class=JsonRoute)


@router.get("/best", responses=document_operator_errors(404, 422))
async def find_best_exit(
    context: Context,
    caller: Annotated[Caller, Depends(Permission("exits"))],
    country: Annotated[Country, Query(description="The country that the exit should serve.")],
    of_fleet: OfFleet = None,
) -> ExitOut:
    """Find the best exit of a country now: healthy, with little load, and with short round trips."""
    async with context.database.snapshot() as session:
        return await EXITS.best(context.begin_read(session), caller, country, of_fleet)
