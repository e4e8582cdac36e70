"""The endpoints of the collection /audit-events."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from fastapi.responses import StreamingResponse

from api.features.audit_events.schemas import AuditEventOut, AuditQuery
from api.features.audit_events.service import AUDIT_EVENTS
from api.http.openapi import document_operator_errors
from api.http.request_body import JsonRoute
from api.kernel.caller import Caller, Permission
from api.kernel.collections.schemas import Page
from api.kernel.context import Context

NDJSON = "application/x-ndjson"
router = APIRouter(prefix=f"/{AUDIT_EVENTS.name}", tags=[AUDIT_EVENTS.name], route_class=JsonRoute)
AllowedCaller = Annotated[Caller, Depends(Permission(AUDIT_EVENTS.name))]
_LISTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One page; or as NDJSON, all entries from the cursor on, unless a limit is set.",
        "content": {NDJSON: {"schema": {"type": "string"}}},
    }
}


@router.get("", response_model=Page[AuditEventOut], responses={**document_operator_errors(422), **_LISTED})
async def list_audit_events(
    query: Annotated[AuditQuery, Query()],
    context: Context,
    caller: AllowedCaller,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """List audit events, newest first. With `Accept: application/x-ndjson` all of them are streamed, one per line."""
    page = await AUDIT_EVENTS.read(context, caller, query)
    if NDJSON not in accept.lower():
        return Response(page.__pydantic_serializer__.to_json(page), media_type="application/json")
    return StreamingResponse(AUDIT_EVENTS.export(context, caller, query, page), media_type=NDJSON)


@router.get("/{sequence}", responses=document_operator_errors(404))
async def read_audit_event(
    sequence: Annotated[str, Path(description="The sequence number of the audit event.")],
    context: Context,
    caller: AllowedCaller,
) -> AuditEventOut:
    """Read one audit event."""
    async with context.database.session() as session:
        found = await AUDIT_EVENTS.find(session, caller, sequence)
        return await AUDIT_EVENTS.show_one(context.begin_read(session), found)
