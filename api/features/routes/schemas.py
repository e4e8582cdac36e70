"""Requests and responses of /routes."""

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
Values = Annotated[list[Value], Field(max_length=1_000)]
Session = Annotated[
    str, Field(pattern=r"^[a-z0-9_.]{1,63}\*?$|^\*$", description="A session, or its beginning followed by `*`.")
]
Position = Annotated[int, Field(ge=0, le=1_000_000, description="Routes are tried in ascending position.")]


class TimesIn(RequestModel):
    """A time of day in UTC. If it ends before it begins, it lasts into the next day."""

    days: list[Day] = Field(default=[], max_length=7, description="The days on which it begins; empty: every day.")
    begin: TimeOfDay = Field(alias="from")
    end: TimeOfDay = Field(alias="to")


class MatchIn(RequestModel):
    """The conditions of a route. A request must meet all of them, each by any of its values. No condition: every request."""

    countries: Values[Country] = Field(default=[], description="Countries that clients ask for.")
    cities: Values[City] = Field(default=[], description="Cities that clients ask for.")
    pools: Values[Name] = Field(default=[], description="Pools that clients ask for by name.")
    sessions: Values[Session] = Field(default=[])
    users: Values[UserName] = Field(default=[])
    groups: Values[Name] = Field(default=[], description="Groups of users.")
    domains: Values[Domain] = Field(default=[], description="Domains of targets, with their subdomains.")
    networks: Values[Network] = Field(
        default=[], description="Networks of targets that are IP addresses. Gateways do not resolve names."
    )
    ports: Values[Ports] = Field(default=[], description="Ports of targets.")
    times: Annotated[list[TimesIn], Field(max_length=50)] = Field(default=[])


class WeightedIn(RequestModel):
    pool: Reference
    weight: int = Field(default=1, ge=1, le=1_000_000)


class DenyIn(RequestModel):
    status: int = Field(default=403, ge=400, le=599, description="The HTTP status of the refusal.")
    text: Annotated[Text, Field(max_length=1_000)] = "exitplane: this is not allowed\n"


class ActionIn(RequestModel):
    """The action of a route: exactly one of `pools`, `allow` and `deny`."""

    pools: Annotated[list[WeightedIn], Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="The pools that serve the request, chosen by weight."
    )
    fallback: Annotated[list[Reference], Field(max_length=20)] = Field(
        default=[], description="The pools to try, in this order, when none of `pools` has a healthy exit."
    )
    allow: Literal[True] | None = Field(
        default=None, description="`true`: the request goes where the client asks, and later routes are not tried."
    )
    deny: DenyIn | None = None

    @model_validator(mode="after")
    def _is_one(self) -> ActionIn:
        given = [name for name in ("pools", "allow", "deny") if getattr(self, name) is not None]
        if len(given) != 1:
            raise bad_value(
                "bad_action", f"a route has one action, not {len(given)}", "send exactly one of pools, allow and deny"
            )
        if self.fallback and self.pools is None:
            raise bad_value("bad_action", "fallback needs pools", "send pools, or leave fallback out")
        return self


class RouteIn(RequestModel):
    """A routing rule. Routes are tried by position, then by name; the first match decides."""

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
    match: MatchIn = Field(default_factory=absent, description="Replaces the whole object.")
    action: ActionIn = Field(default_factory=absent, description="Replaces the whole object.")


class RouteQuery(FleetListQuery):
    enabled: bool | None = None
    pool: Reference | None = Field(None, description="Only routes that lead to this pool, by name or id.")


class RouteOut(ResponseModel):
    id: UUID
    name: str
    fleet: str
    fleet_id: UUID
    position: int
    enabled: bool
    match: MatchIn
    action: ActionIn
    explanation: str = Field(description="The route in one sentence.")
    created_at: datetime
