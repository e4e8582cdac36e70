"""Events: the rows of the change log with an action, in the order of their commits.

Ids of the change log are taken under the revision's lock (`model.unit_of_work`), so nothing is committed later below an id that was
read. Rolled back writes leave gaps in the ids, which mean nothing.
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
    """The events after this one are not complete in the log any more, or the log never had this event."""

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
    """A filter by kind and fleet; None: all. Events without a fleet pass only a filter for all fleets."""

    kinds: frozenset[str] | None = None
    fleets: frozenset[UUID] | None = None

    def matches(self, event: Event) -> bool:
        """Tell whether an event passes the filter."""
        return (self.kinds is None or event.kind in self.kinds) and (
            self.fleets is None or event.fleet_id in self.fleets
        )

    def restrict(self, query: Select[Any]) -> Select[Any]:
        """Add the filter to a query."""
        if self.kinds is not None:
            query = query.where(col(ChangeRow.kind).in_(self.kinds))
        if self.fleets is not None:
            query = query.where(col(ChangeRow.fleet_id).in_(self.fleets))
        return query


EVERYTHING = EventFilter()


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events in order. `position` is the id up to which the batch is complete."""

    events: Sequence[Event]
    position: int
    more: bool
    """There may be further events already."""


async def read(session: AsyncSession, after: int | None, limit: int, wanted: EventFilter = EVERYTHING) -> EventBatch:
    """Read the events after an id that was read before; None: all that the log still has.

    Raises EventsGone when the log does not have that id: later events may be gone too. The session must be unused.
    """
    await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    if after is not None and not await _has(session, after):
        raise EventsGone(
            "the change log does not have all events after this one any more",
            hint="open the stream without an event id, then read everything that you keep again",
        )
    newest = await newest_id(session)
    query = select(ChangeRow).where(col(ChangeRow.id) > (after or 0), col(ChangeRow.action).is_not(None))
    query = wanted.restrict(query).order_by(col(ChangeRow.id)).limit(limit + 1)
    found = [_event(row) for row in (await session.execute(query)).scalars()]
    more = len(found) > limit
    return EventBatch(found[:limit], found[limit - 1].id if more else newest, more)


async def newest_id(session: AsyncSession) -> int:
    """Return the id of the newest change; 0 when there is none."""
    newest: int | None = (await session.execute(select(func.max(col(ChangeRow.id))))).scalar_one()
    return newest or 0


async def _has(session: AsyncSession, position: int) -> bool:
    """Tell whether the log has this id; for position 0, whether it is complete from the first revision on."""
    if position:
        return await session.get(ChangeRow, position) is not None
    oldest: int | None = (await session.execute(select(func.min(col(ChangeRow.revision))))).scalar_one()
    return oldest is None or oldest == 1


def _event(row: ChangeRow) -> Event:
    assert row.id is not None
    assert row.action is not None
    return Event(row.id, row.at, row.revision, row.kind, row.action, row.key, row.fleet_id, row.detail or {})
