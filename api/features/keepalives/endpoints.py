"""POST /keepalive and GET /status, compatible with VPN Sentinel's unchanged clients."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from api.features.keepalives import service
from api.features.keepalives.keepalive_throttle import KeepaliveThrottle
from api.features.keepalives.schemas import EXAMPLE, KeepaliveIn, KeepaliveOut, SentinelClientOut
from api.http.openapi import document_operator_errors, document_write_errors
from api.http.request_body import JsonRoute
from api.kernel.caller import Authenticated, Caller, Permission
from api.kernel.context import Context

router = APIRouter(tags=["vpn_sentinel"], route_class=JsonRoute)
_SECURITY: list[dict[str, list[str]]] = [{"operator": []}, {"sentinel": []}]


def _permit(collection: str, *, write: bool = False) -> Any:
    permit = Permission(collection, write=write)

    async def throttled(request: Request, caller: Authenticated) -> Caller:
        throttle: KeepaliveThrottle = request.app.state.keepalive_throttle
        throttle.admit(await permit(caller))
        return caller

    return Depends(throttled)


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
async def send_keepalive(
    request: Request, context: Context, caller: Annotated[Caller, _permit("keepalive", write=True)]
) -> KeepaliveOut:
    """Take a keepalive of a VPN Sentinel client. The API key is in `X-API-Key` and needs the scope `keepalive:write`."""
    return await service.receive(context, caller, await request.json())


@router.get("/status", responses=document_operator_errors(429), openapi_extra={"security": _SECURITY})
async def read_status(context: Context, caller: Annotated[Caller, _permit("status")]) -> dict[str, SentinelClientOut]:
    """Show the last keepalive of every VPN Sentinel client, by client id. A client is removed after 30 days of silence."""
    return await service.status(context, caller)
