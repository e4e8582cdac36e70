"""Queries and responses of /events."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from api.http.field_types import Reference, ResponseModel
from api.kernel.collections.schemas import PAGE_SIZE, PAGE_SIZE_MAX, Page
from model.world import Kind

ID_MAX: Final = 2**63 - 1


class EventKind(StrEnum):
    """The kind of object that an event is about, by its name in the API."""

    APPROVAL = "approval"
    CERTIFICATE = "certificate"
    EXIT = "exit"
    FLEET = "fleet"
    LISTENER = "listener"
    OVERRIDE = "override"
    PLAN = "plan"
    POOL = "pool"
    PROXY = "proxy"
    ROUTE = "route"
    USER = "user"

    @property
    def stored(self) -> str:
        """The name of this kind in the change log."""
        return Kind.SERVER_CERTIFICATE if self is EventKind.CERTIFICATE else self.value


class EventsQuery(BaseModel):
    """The query of a page or a stream."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: int | None = Field(
        None,
        ge=0,
        le=ID_MAX,
        description="Only events after the one with this id. Without it, a page begins with the oldest stored event,"
        " and a stream with the next event.",
    )
    limit: int = Field(PAGE_SIZE, ge=1, le=PAGE_SIZE_MAX, description="The largest number of events on a page.")
    cursor: int | None = Field(
        None, ge=0, le=ID_MAX, description="`next` of the previous page. It takes precedence over `after`."
    )
    kind: list[EventKind] = Field(default=[], max_length=20, description="Only events about objects of these kinds.")
    fleet: Reference | None = Field(
        None, description="Only events of this fleet, by name or id. A deleted fleet is found by its id."
    )


class EventOut(ResponseModel):
    """The creation, change or deletion of an object."""

    id: int = Field(description="Ids increase: every later event has a greater one.")
    at: datetime
    revision: int = Field(description="The revision of the write. All events of one write have the same revision.")
    kind: str
    action: str = Field(description="`created`, `changed` or `deleted`.")
    object_id: str
    fleet_id: UUID | None
    name: str | None = Field(description="The name of the object; null if it has none, or if it is a person's name.")
    changes: dict[str, Any] = Field(
        description="Changed fields, each as `[before, after]`; null for a value that is not disclosed."
    )

    @property
    def type(self) -> str:
        """The event type of the stream, such as `exit.changed`."""
        return f"{self.kind}.{self.action}"


class EventPage(Page[EventOut]):
    last: int = Field(description="The id that this page reached. Send it as `after` to ask for later events.")
