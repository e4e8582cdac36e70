"""Which events a caller is shown."""

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
    """One page. Raises Problem: 410, 422."""
    wanted = _wanted(query, await _fleet(context, caller, query), caller)
    after = query.after if query.cursor is None else query.cursor
    try:
        async with context.database.session() as session:
            reading = await events.read(session, after, query.limit, wanted)
    except EventsGone as error:
        raise _gone(error, "?after", after) from error
    return EventPage(
        items=[show(event) for event in reading.events],
        next=str(reading.position) if reading.more else None,
        last=reading.position,
    )


async def open_stream(
    hub: EventHub,
    context: ApiContext,
    caller: Caller,
    query: EventsQuery,
    last_event_id: str | None,
    ask: Callable[[], Awaitable[Caller]],
) -> EventFeed:
    """A stream that begins after an event, or now. Raises Problem: 410, 422."""
    fleet = await _fleet(context, caller, query)
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
        wanted=partial(_wanted, query, fleet),
        ask=ask,
        clock=context.clock,
    )


async def still(context: ApiContext, authorization: str | None) -> Caller:
    """The caller as they stand now. Raises Problem when they may not read events any more, DatabaseUnreachable."""
    caller = await identify(context, authorization)
    refusal = caller.refusal("events", write=False)
    if refusal is not None:
        raise refusal
    return caller


def _wanted(query: EventsQuery, fleet: UUID | None, caller: Caller) -> EventFilter:
    fleets = caller.fleets
    if fleet is not None:
        fleets = frozenset({fleet}) if caller.sees(fleet) else frozenset()
    return EventFilter(frozenset(kind.stored for kind in query.kind) or None, fleets)


async def _fleet(context: ApiContext, caller: Caller, query: EventsQuery) -> UUID | None:
    """The fleet that is asked for. One that is gone has its id still; a name that leads to none is refused."""
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
        message, hint = "this is no event's id", "send the id of the last event that came, or leave it out"
        raise Problem(422, "bad_event_id", message, errors=[FieldError("Last-Event-ID", message, hint, text)])
    return number


def _gone(error: EventsGone, field: str, value: object) -> Problem:
    hint = error.hint
    return Problem(410, error.code, error.message, errors=[FieldError(field, error.message, hint, value)])
