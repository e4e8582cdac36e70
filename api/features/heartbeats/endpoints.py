"""POST /exits/{exit_id}/heartbeat and POST /proxies/{proxy_id}/heartbeat."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter

from api.features.heartbeats import service
from api.features.heartbeats.schemas import ExitHeartbeatIn, HeartbeatOut, ProxyHeartbeatIn
from api.http.connections import note_authenticated
from api.http.openapi import document_errors
from api.http.parameters import Id
from api.http.request_body import JsonRoute
from api.kernel.context import ApiContext

router = APIRouter(tags=["heartbeats"], route_class=JsonRoute)
_PROBLEMS = document_errors(400, 401, 403, 404, 410, 413, 415, 422)


def _documented(kind: str, schema: type[ExitHeartbeatIn | ProxyHeartbeatIn], example: dict[str, Any]) -> dict[str, Any]:
    # The endpoints read the exact bytes, because the signature covers them, and serve thousands of requests a second. So they
    # skip the framework's parsing, and document here what it would derive.
    content = {"application/json": {"schema": schema.model_json_schema(), "example": example}}
    ref = {"name": f"{kind}_id", "in": "path", "required": True, "schema": TypeAdapter(Id).json_schema()}
    return {
        "parameters": [ref],
        "requestBody": {"required": True, "content": content},
        "security": [{"signature": []}],
    }


_EXIT = {"tunnel": "up", "envoy": "up", "stopping": False, "reason": "", "version": "0.1.0"}
_GATEWAY = {"envoy": "up", "stopping": False, "reason": "", "version": "0.1.0"}


@router.post(
    "/exits/{exit_id}/heartbeat",  # noqa: FAST003 - see _documented
    status_code=202,
    responses={202: {"model": HeartbeatOut}, **_PROBLEMS},
    openapi_extra=_documented("exit", ExitHeartbeatIn, _EXIT),
)
async def send_exit_heartbeat(request: Request) -> Response:
    """Report the health of an exit.

    The Bearer token is a JWS (ES256), signed with the key of the exit's certificate, over the path and the body's SHA-256. Its
    `iat` has microseconds and is later than in the exit's last request. Otherwise the answer is a 401 with the code
    `stale_signature` and the newest known time as the error's `value`. The replica that answers may not know it yet; then the
    heartbeat has no effect.
    """
    return await _receive(request, "exit", ExitHeartbeatIn)


@router.post(
    "/proxies/{proxy_id}/heartbeat",  # noqa: FAST003
    status_code=202,
    responses={202: {"model": HeartbeatOut}, **_PROBLEMS},
    openapi_extra=_documented("proxy", ProxyHeartbeatIn, _GATEWAY),
)
async def send_proxy_heartbeat(request: Request) -> Response:
    """Report the health of a proxy. The Bearer token is signed as for an exit's heartbeat."""
    return await _receive(request, "proxy", ProxyHeartbeatIn)


async def _receive(request: Request, kind: str, schema: type[ExitHeartbeatIn | ProxyHeartbeatIn]) -> Response:
    context: ApiContext = request.app.state.context
    body = await request.body()
    credential, signed_at = await service.authenticate(
        context,
        kind=kind,
        ref=request.path_params[f"{kind}_id"],
        authorization=request.headers.get("authorization"),
        path=request.scope["path"],
        body=body,
    )
    note_authenticated(request.scope)
    beat = service.read_heartbeat(schema, body, context.clock())
    answer = await service.receive(context, credential, signed_at, beat)
    return Response(answer.model_dump_json(exclude_unset=True), 202, media_type="application/json")
