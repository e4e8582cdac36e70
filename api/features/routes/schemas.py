"""Routes as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeVar
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from api.http.field_types import (
    City,
    Country,
    Domain,
    Name,
    Network,
    Ports,
    Reference,
    RequestModel,
    ResponseModel,
    Text,
    TimeOfDay,
    UserName,
    absent,
)
from api.http.validators import bad_value
from api.kernel.collections.schemas import FleetListQuery

Value = TypeVar("Value")
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Some = Annotated[list[Value], Field(max_length=1_000)]
Session = Annotated[str, Field(pattern=r"^[a-z0-9_.]{1,63}\*?$|^\*$", description="A session, or its beginning and *.")]
Position = Annotated[int, Field(ge=0, le=1_000_000)]


class TimesIn(RequestModel):
    """A time of day in UTC. One that ends before it begins goes on into the next day."""

    days: list[Day] = Field(default=[], max_length=7, description="On which it begins; none: on all.")
    begin: TimeOfDay = Field(alias="from")
    end: TimeOfDay = Field(alias="to")


class MatchIn(RequestModel):
    """Requests that meet every condition that is there, by any one of its values. None at all: every request."""

    countries: Some[Country] = Field(default=[])
    cities: Some[City] = Field(default=[])
    pools: Some[Name] = Field(default=[], description="The names of pools that clients wish for.")
    sessions: Some[Session] = Field(default=[])
    users: Some[UserName] = Field(default=[])
    groups: Some[Name] = Field(default=[])
    domains: Some[Domain] = Field(default=[])
    networks: Some[Network] = Field(
        default=[], description="For targets that are addresses: gateways resolve no names."
    )
    ports: Some[Ports] = Field(default=[])
    times: Annotated[list[TimesIn], Field(max_length=50)] = Field(default=[])


class WeightedIn(RequestModel):
    pool: Reference
    weight: int = Field(default=1, ge=1, le=1_000_000)


class DenyIn(RequestModel):
    status: int = Field(default=403, ge=400, le=599)
    text: Annotated[Text, Field(max_length=1_000)] = "exitplane: this is not allowed\n"


class ActionIn(RequestModel):
    """One of `pools`, `allow` and `deny`."""

    pools: Annotated[list[WeightedIn], Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="One of these, by weight."
    )
    fallback: Annotated[list[Reference], Field(max_length=20)] = Field(
        default=[], description="Where it goes, in this order, when none of the pools has a healthy exit."
    )
    allow: Literal[True] | None = Field(default=None, description="Where the wish says, whatever later routes say.")
    deny: DenyIn | None = None

    @model_validator(mode="after")
    def _is_one(self) -> ActionIn:
        given = [name for name in ("pools", "allow", "deny") if getattr(self, name) is not None]
        if len(given) != 1:
            raise bad_value("bad_action", "a route does one thing", "send one of pools, allow and deny")
        if self.fallback and self.pools is None:
            raise bad_value("bad_action", "only pools have a fallback", "leave the fallback out")
        return self


class RouteIn(RequestModel):
    """Which wish goes where. Routes are tried by position, then name, and the first that matches decides."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "staff-to-gb",
                    "fleet": "demo",
                    "position": 100,
                    "match": {"groups": ["staff"], "domains": ["example.com"]},
                    "action": {"deny": {"status": 403, "text": "not from here\n"}},
                }
            ]
        }
    )

    name: Name
    fleet: Reference
    position: Position = 1_000
    enabled: bool = True
    match: MatchIn = MatchIn()
    action: ActionIn


class RoutePatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": False}]})

    name: Name = Field(default_factory=absent)
    position: Position = Field(default_factory=absent)
    enabled: bool = Field(default_factory=absent)
    match: MatchIn = Field(default_factory=absent, description="In whole.")
    action: ActionIn = Field(default_factory=absent, description="In whole.")


class RouteQuery(FleetListQuery):
    enabled: bool | None = None
    pool: Reference | None = Field(None, description="Only those that lead to this pool, by its name or id.")


class RouteOut(ResponseModel):
    id: UUID
    name: str
    fleet: str
    fleet_id: UUID
    position: int
    enabled: bool
    match: MatchIn
    action: ActionIn
    explanation: str = Field(description="The route as a sentence.")
    created_at: datetime
