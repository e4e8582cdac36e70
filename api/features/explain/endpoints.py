"""GET /explain: how a gateway would route a request, and why."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api.features.explain import service
from api.features.explain.schemas import ExplainOut, ExplainQuery
from api.http.openapi import document_operator_errors
from api.kernel.caller import Caller, Permission
from api.kernel.context import Context

router = APIRouter(prefix="/explain", tags=["explain"])


@router.get("", responses=document_operator_errors(409, 422))
async def explain_request(
    query: Annotated[ExplainQuery, Query()],
    context: Context,
    caller: Annotated[Caller, Depends(Permission("explain"))],
) -> ExplainOut:
    """Explain a request: its listener, route, pool and exits, in order of preference, and why other exits would not serve."""
    return await service.show(context, caller, query)
