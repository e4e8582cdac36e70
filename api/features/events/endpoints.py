"""GET /events: what changed, as a stream or as pages."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from api.features.events import service
from api.features.events.event_stream import EventStream
from api.features.events.schemas import EventPage, EventsQuery
from api.http.openapi import ProblemView, document_operator_errors
from api.http.request_body import JsonRoute
from api.kernel.caller import Caller, Permission
from api.kernel.context import Context
from api.runtime.event_hub import EventHub

STREAM = "text/event-stream"
router = APIRouter(prefix="/events", tags=["events"], route_class=JsonRoute)
May = Annotated[Caller, Depends(Permission("events"))]
LastEventId = Annotated[
    str | None,
    Header(max_length=20, description="The stream goes on after the event with this id; it precedes `after`."),
]
_EXAMPLE = """\
id: 42
event: exit.changed
data: {"id":42,"at":"2026-01-01T12:00:00Z","revision":17,"kind":"exit","action":"changed",…}
"""
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page, the oldest event first; or, if that is what is accepted, a stream.",
        "content": {STREAM: {"schema": {"type": "string"}, "example": _EXAMPLE}},
    },
    410: {"model": ProblemView, "description": "Not all that followed is still kept: begin anew"},
    503: {"model": ProblemView, "description": "PostgreSQL is away, or this replica has too many streams"},
}


@router.get("", response_model=EventPage, responses={**document_operator_errors(422), **_RESPONSES})
async def list_events(
    query: Annotated[EventsQuery, Query()],
    request: Request,
    context: Context,
    caller: May,
    last_event_id: LastEventId = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """What was created, changed or deleted. `Accept: text/event-stream` streams it as it happens.

    A stream that breaks off is resumed with `Last-Event-ID`: nothing is lost, nothing comes twice, whichever replica answers.
    """
    if STREAM not in accept.lower():
        page = await service.page(context, caller, query)
        return Response(page.model_dump_json(), media_type="application/json")
    hub: EventHub = request.app.state.event_hub
    ask = partial(service.still, context, request.headers.get("authorization"))
    return EventStream(hub, await service.open_stream(hub, context, caller, query, last_event_id, ask))
