"""Events as the API shows them."""

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
    """What an event is about, by the name that the API has for it."""

    APPROVAL = "approval"
    CERTIFICATE = "certificate"
    EXIT = "exit"
    FLEET = "fleet"
    LISTENER = "listener"
    PLAN = "plan"
    POOL = "pool"
    PROXY = "proxy"
    ROUTE = "route"
    USER = "user"

    @property
    def stored(self) -> str:
        """The name that the change log has for it."""
        return Kind.SERVER_CERTIFICATE if self is EventKind.CERTIFICATE else self.value


class EventsQuery(BaseModel):
    """What a page and a stream take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: int | None = Field(
        None,
        ge=0,
        le=ID_MAX,
        description="What follows the event with this id. Without it: a page begins with the oldest one that is kept, a"
        " stream with what happens from now on.",
    )
    limit: int = Field(PAGE_SIZE, ge=1, le=PAGE_SIZE_MAX, description="How many there are on a page at most.")
    cursor: int | None = Field(None, ge=0, le=ID_MAX, description="`next` of the page before; it precedes `after`.")
    kind: list[EventKind] = Field(default=[], max_length=20, description="Only those about things of these kinds.")
    fleet: Reference | None = Field(None, description="Only those of this fleet, by its name, or by id if it is gone.")


class EventOut(ResponseModel):
    """Something was created, changed or deleted."""

    id: int = Field(description="Greater than those of all events before it.")
    at: datetime
    revision: int = Field(description="Of the write that did it; all that one write did has the same.")
    kind: str
    action: str = Field(description="`created`, `changed` or `deleted`.")
    object_id: str
    fleet_id: UUID | None
    name: str | None = Field(description="Of what it is about; null where that has none, or is a person's.")
    changes: dict[str, Any] = Field(
        description="Fields with what they were and what they are; null for what is not told."
    )

    @property
    def type(self) -> str:
        """As an event is named: `exit.changed`."""
        return f"{self.kind}.{self.action}"


class EventPage(Page[EventOut]):
    last: int = Field(description="All events up to this id were looked at: `after` for who asks again later.")
