"""POST /keepalive and GET /status: VPN Sentinel's clients work unchanged."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from api.features.keepalives import service
from api.features.keepalives.keepalive_throttle import KeepaliveThrottle
from api.features.keepalives.schemas import EXAMPLE, ClientOut, KeepaliveIn, KeepaliveOut
from api.http.openapi import document_operator_errors, document_write_errors
from api.http.request_body import JsonRoute
from api.kernel.caller import Authenticated, Caller, Permission
from api.kernel.context import Context

router = APIRouter(tags=["neighbours"], route_class=JsonRoute)
_SECURITY: list[dict[str, list[str]]] = [{"operator": []}, {"sentinel": []}]


def _permit(collection: str, *, write: bool = False) -> Any:
    permit = Permission(collection, write=write)

    async def admitted(request: Request, caller: Authenticated) -> Caller:
        throttle: KeepaliveThrottle = request.app.state.keepalive_throttle
        throttle.admit(await permit(caller))
        return caller

    return Depends(admitted)


@router.post(
    "/keepalive",
    responses=document_write_errors(429),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": KeepaliveIn.model_json_schema(), "example": EXAMPLE}},
        },
        "security": _SECURITY,
    },
)
async def hear_keepalive(
    request: Request, context: Context, caller: Annotated[Caller, _permit("keepalive", write=True)]
) -> KeepaliveOut:
    """What a client of VPN Sentinel sends. The key is in `X-API-Key`, and has the scope `keepalive:write`."""
    return await service.hear(context, caller, await request.json())


@router.get("/status", responses=document_operator_errors(429), openapi_extra={"security": _SECURITY})
async def read_status(context: Context, caller: Annotated[Caller, _permit("status")]) -> dict[str, ClientOut]:
    """All clients of VPN Sentinel by id, as they were heard last; forgotten after 30 days of silence."""
    return await service.status(context, caller)
