"""Selection of the events that a caller may see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from uuid import UUID

from api.features.events.event_stream import EventFeed
from api.features.events.rendering import show
from api.features.events.schemas import ID_MAX, EventPage, EventsQuery
from api.http.field_errors import FieldError
from api.http.field_types import as_id
from api.http.problems import Problem, unknown
from api.kernel.authentication import identify
from api.kernel.caller import Caller
from api.kernel.context import ApiContext
from api.runtime.event_hub import EventHub
from model.repositories import declared, events
from model.repositories.events import EventFilter, EventsGone


async def page(context: ApiContext, caller: Caller, query: EventsQuery) -> EventPage:
    """Read one page. Raises Problem: 410, 422."""
    chosen = _filter(query, await _fleet_id(context, caller, query), caller)
    after = query.after if query.cursor is None else query.cursor
    try:
        async with context.database.session() as session:
            batch = await events.read(session, after, query.limit, chosen)
    except EventsGone as error:
        raise _gone(error, "?after", after) from error
    return EventPage(
        items=[show(event) for event in batch.events],
        next=str(batch.position) if batch.more else None,
        last=batch.position,
    )


async def open_stream(
    hub: EventHub,
    context: ApiContext,
    caller: Caller,
    query: EventsQuery,
    last_event_id: str | None,
    reauthenticate_caller: Callable[[], Awaitable[Caller]],
) -> EventFeed:
    """Open a stream that begins after an event, or now. Raises Problem: 410, 422."""
    fleet = await _fleet_id(context, caller, query)
    after = query.after if not last_event_id else _read_id(last_event_id)
    try:
        async with context.database.session() as session:
            if after is None:
                after = await events.newest_id(session)
            else:
                await events.read(session, after, 1)
    except EventsGone as error:
        raise _gone(error, "Last-Event-ID" if last_event_id else "?after", after) from error
    return EventFeed(
        hub,
        position=after,
        caller=caller,
        filter_for=partial(_filter, query, fleet),
        reauthenticate=reauthenticate_caller,
        clock=context.clock,
    )


async def reauthenticate(context: ApiContext, authorization: str | None) -> Caller:
    """Identify the caller again. Raises Problem when they may no longer read events; DatabaseUnreachable."""
    caller = await identify(context, authorization)
    refusal = caller.refusal("events", write=False)
    if refusal is not None:
        raise refusal
    return caller


def _filter(query: EventsQuery, fleet: UUID | None, caller: Caller) -> EventFilter:
    fleets = caller.fleets
    if fleet is not None:
        fleets = frozenset({fleet}) if caller.sees(fleet) else frozenset()
    return EventFilter(frozenset(kind.stored for kind in query.kind) or None, fleets)


async def _fleet_id(context: ApiContext, caller: Caller, query: EventsQuery) -> UUID | None:
    """Return the id of the fleet in the query. An id may be of a deleted fleet.

    Raises Problem (422) for an unknown name.
    """
    if query.fleet is None:
        return None
    given = as_id(query.fleet)
    if given is not None:
        return given
    async with context.database.session() as session:
        found = await declared.find_fleet(session, query.fleet)
    if found is None or not caller.sees(found.id):
        raise unknown("fleet", "?fleet", query.fleet)
    return found.id


def _read_id(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else -1
    if not 0 <= number <= ID_MAX:
        message, hint = "this is not an event id", "send the id of the last event received, or leave it out"
        raise Problem(422, "bad_event_id", message, errors=[FieldError("Last-Event-ID", message, hint, text)])
    return number


def _gone(error: EventsGone, field: str, value: object) -> Problem:
    hint = error.hint
    return Problem(410, error.code, error.message, errors=[FieldError(field, error.message, hint, value)])
