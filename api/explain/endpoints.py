"""What a gateway would make of a request, and why: /explain."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api.auth.caller import Caller, Permit
from api.context import Context
from api.explain import service
from api.explain.schemas import ExplainOut, ExplainQuery
from api.openapi import for_operators

router = APIRouter(prefix="/explain", tags=["explain"])


@router.get("", responses=for_operators(409, 422))
async def explain_request(
    query: Annotated[ExplainQuery, Query()],
    context: Context,
    caller: Annotated[Caller, Depends(Permit("explain"))],
) -> ExplainOut:
    """Which listener, route, pool and exits would serve a request, in which order, and why others would not."""
    return await service.show(context, caller, query)
