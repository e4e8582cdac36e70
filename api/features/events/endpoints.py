"""GET /events: the changes of declared state, as a stream or as pages."""

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
AllowedCaller = Annotated[Caller, Depends(Permission("events"))]
LastEventId = Annotated[
    str | None,
    Header(
        max_length=20, description="Resume the stream after the event with this id. It takes precedence over `after`."
    ),
]
_EXAMPLE = """\
id: 42
event: exit.changed
data: {"id":42,"at":"2026-01-01T12:00:00Z","revision":17,"kind":"exit","action":"changed",…}
"""
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One page, oldest event first; with `Accept: text/event-stream`, a stream.",
        "content": {STREAM: {"schema": {"type": "string"}, "example": _EXAMPLE}},
    },
    410: {
        "model": ProblemView,
        "description": "Some events after this id are no longer stored: start again without an id",
    },
    429: {"model": ProblemView, "description": "This operator has 16 streams at this replica"},
    503: {"model": ProblemView, "description": "PostgreSQL cannot be reached, or this replica has too many streams"},
}


@router.get("", response_model=EventPage, responses={**document_operator_errors(422), **_RESPONSES})
async def list_events(
    query: Annotated[EventsQuery, Query()],
    request: Request,
    context: Context,
    caller: AllowedCaller,
    last_event_id: LastEventId = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Response:
    """List what was created, changed or deleted. `Accept: text/event-stream` streams events as they happen.

    A broken stream is resumed with `Last-Event-ID`: no event is lost or repeated, even at another replica.
    """
    if STREAM not in accept.lower():
        page = await service.page(context, caller, query)
        return Response(page.model_dump_json(), media_type="application/json")
    hub: EventHub = request.app.state.event_hub
    reauthenticate = partial(service.reauthenticate, context, request.headers.get("authorization"))
    return EventStream(hub, await service.open_stream(hub, context, caller, query, last_event_id, reauthenticate))
