"""POST /exits/{exit_id}/heartbeat and /proxies/{proxy_id}/heartbeat."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter

from api.features.heartbeats import service
from api.features.heartbeats.schemas import ExitHeartbeatIn, HeartbeatOut, ProxyHeartbeatIn
from api.http.openapi import document_errors
from api.http.parameters import Id
from api.http.request_body import JsonRoute
from api.kernel.context import ApiContext

router = APIRouter(tags=["heartbeats"], route_class=JsonRoute)
_PROBLEMS = document_errors(400, 401, 403, 404, 410, 413, 415, 422)


def _documented(kind: str, schema: type[ExitHeartbeatIn | ProxyHeartbeatIn], example: dict[str, Any]) -> dict[str, Any]:
    # the endpoints read the exact bytes, which the proof covers, and are asked thousands of times a second: what the
    # framework would find out for each request, it is told here
    content = {"application/json": {"schema": schema.model_json_schema(), "example": example}}
    ref = {"name": f"{kind}_id", "in": "path", "required": True, "schema": TypeAdapter(Id).json_schema()}
    return {
        "parameters": [ref],
        "requestBody": {"required": True, "content": content},
        "security": [{"proof": []}],
    }


_EXIT = {"tunnel": "up", "envoy": "up", "leaving": False, "reason": "", "version": "0.1.0"}
_GATEWAY = {"envoy": "up", "leaving": False, "reason": "", "version": "0.1.0"}


@router.post(
    "/exits/{exit_id}/heartbeat",  # noqa: FAST003 - see _documented
    status_code=202,
    responses={202: {"model": HeartbeatOut}, **_PROBLEMS},
    openapi_extra=_documented("exit", ExitHeartbeatIn, _EXIT),
)
async def hear_exit(request: Request) -> Response:
    """Say that an exit is alive, and how.

    The Bearer token is a JWS (ES256) by the key of the exit's certificate over the path and the SHA-256 of the body.
    """
    return await _hear(request, "exit", ExitHeartbeatIn)


@router.post(
    "/proxies/{proxy_id}/heartbeat",  # noqa: FAST003
    status_code=202,
    responses={202: {"model": HeartbeatOut}, **_PROBLEMS},
    openapi_extra=_documented("proxy", ProxyHeartbeatIn, _GATEWAY),
)
async def hear_proxy(request: Request) -> Response:
    """Say that a proxy is alive, and how; authenticated as an exit's heartbeat is."""
    return await _hear(request, "proxy", ProxyHeartbeatIn)


async def _hear(request: Request, kind: str, schema: type[ExitHeartbeatIn | ProxyHeartbeatIn]) -> Response:
    context: ApiContext = request.app.state.context
    body = await request.body()
    credential = await service.authenticate(
        context,
        kind=kind,
        ref=request.path_params[f"{kind}_id"],
        authorization=request.headers.get("authorization"),
        path=request.scope["path"],
        body=body,
    )
    answer = await service.hear(context, credential, service.read_heartbeat(schema, body, context.clock()))
    return Response(answer.model_dump_json(exclude_unset=True), 202, media_type="application/json")
