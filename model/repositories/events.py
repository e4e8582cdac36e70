"""Events: what the change log says of things that changed, in the order in which it was committed.

The ids of the change log are taken under the revision's lock (`model.unit_of_work`), so whoever has read up to an id has read all that
is before it: nothing is committed there later. Rolled back writes leave holes, which mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.errors import ExitplaneError
from model.tables import ChangeRow


class EventsGone(ExitplaneError):
    """What followed an event is not in the log any more, or the log never had this event."""

    code = "events_gone"


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the change log that has an action."""

    id: int
    at: datetime
    revision: int
    kind: str
    action: str
    object_id: str
    fleet_id: UUID | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events; None: all. Those of no fleet are for whoever takes those of all."""

    kinds: frozenset[str] | None = None
    fleets: frozenset[UUID] | None = None

    def has(self, event: Event) -> bool:
        """Whether an event is one of these."""
        return (self.kinds is None or event.kind in self.kinds) and (
            self.fleets is None or event.fleet_id in self.fleets
        )

    def restrict(self, query: Select[Any]) -> Select[Any]:
        """The same, for PostgreSQL."""
        if self.kinds is not None:
            query = query.where(col(ChangeRow.kind).in_(self.kinds))
        if self.fleets is not None:
            query = query.where(col(ChangeRow.fleet_id).in_(self.fleets))
        return query


EVERYTHING = EventFilter()


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events in order, and the id up to which there are no others that are wanted."""

    events: Sequence[Event]
    position: int
    more: bool
    """Whether there may be further ones already."""


async def read(session: AsyncSession, after: int | None, limit: int, wanted: EventFilter = EVERYTHING) -> EventBatch:
    """What follows an id that was read before; None: all that the log still has.

    Raises EventsGone when the log has that id no more, or never had it: what followed may be gone too. The session must not have
    done anything before.
    """
    await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    if after is not None and not await _has(session, after):
        raise EventsGone(
            "the log of changes has not all that followed this event",
            hint="open the stream without an event's id, and then read anew what you keep",
        )
    newest = await newest_id(session)
    query = select(ChangeRow).where(col(ChangeRow.id) > (after or 0), col(ChangeRow.action).is_not(None))
    query = wanted.restrict(query).order_by(col(ChangeRow.id)).limit(limit + 1)
    found = [_event(row) for row in (await session.execute(query)).scalars()]
    more = len(found) > limit
    return EventBatch(found[:limit], found[limit - 1].id if more else newest, more)


async def newest_id(session: AsyncSession) -> int:
    """The id of the newest change."""
    newest: int | None = (await session.execute(select(func.max(col(ChangeRow.id))))).scalar_one()
    return newest or 0


async def _has(session: AsyncSession, position: int) -> bool:
    """Whether the log has this id; or, before the first one, whether it has all since then."""
    if position:
        return await session.get(ChangeRow, position) is not None
    oldest: int | None = (await session.execute(select(func.min(col(ChangeRow.revision))))).scalar_one()
    return oldest is None or oldest == 1


def _event(row: ChangeRow) -> Event:
    assert row.id is not None
    assert row.action is not None
    return Event(row.id, row.at, row.revision, row.kind, row.action, row.key, row.fleet_id, row.detail or {})
