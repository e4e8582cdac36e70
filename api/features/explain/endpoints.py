"""What a gateway would make of a request, and why: /explain."""

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
    """Which listener, route, pool and exits would serve a request, in which order, and why others would not."""
    return await service.show(context, caller, query)
