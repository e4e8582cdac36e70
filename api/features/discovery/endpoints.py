"""GET /discovery/prometheus."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from api.features.discovery import service
from api.features.discovery.schemas import TargetGroupOut
from api.http.openapi import document_operator_errors
from api.kernel.caller import Caller, Permission
from api.kernel.context import Context

router = APIRouter(prefix="/discovery", tags=["discovery"])
_READ: Any = Depends(Permission("discovery"))


@router.get("/prometheus", responses=document_operator_errors())
async def discover_targets(context: Context, caller: Annotated[Caller, _READ]) -> list[TargetGroupOut]:
    """List what Prometheus should scrape, for its `http_sd_configs`: replicas with metrics, and Envoys of connected proxies.

    An API key needs the scope `discovery:read`.
    """
    async with context.database.session() as session:
        return await service.list_targets(context.begin_read(session), caller)
