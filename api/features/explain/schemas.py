"""What a gateway makes of a request, as the API shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from api.http.field_types import Locality, Reference, ResponseModel
from api.http.validators import bad_value
from model.exit_states import ExitState
from xds.translate.client_intent import IntentSource
from xds.translate.match_failures import MatchFailure


def _check_sent(value: str) -> str:
    if not value.isprintable():
        raise bad_value("bad_text", "no client can send this", "send printable text")
    return value


Sent = Annotated[str, Field(max_length=255), AfterValidator(_check_sent)]


class ExplainQuery(BaseModel):
    """What a client asks for: a target, with the user name and the headers that it sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: Annotated[str, Field(min_length=1, max_length=2_000), AfterValidator(_check_sent)] = Field(
        description="What it asks for: a URL, or a host with or without a port (443 by default)."
    )
    fleet: Reference | None = Field(None, description="Whose gateways; needed where there are several fleets.")
    user: Sent = Field("", description="The user name, with the wishes in it: `alice-country-de`.")
    country: Sent | None = Field(None, description="As in the header exit-country.")
    city: Sent | None = Field(None, description="As in the header exit-city.")
    pool: Sent | None = Field(None, description="As in the header exit-pool.")
    session: Sent | None = Field(None, description="As in the header exit-session.")
    listener: Reference | None = Field(None, description="Where it comes in, by name or id; by default the first one.")
    server_name: Sent = Field("", description="Which name it dialled, if it speaks TLS to the gateway.")
    locality: Locality | None = Field(None, description="Where the gateway stands.")
    at: AwareDatetime | None = Field(None, description="When; by default now.")


class ClientIntentOut(ResponseModel):
    """As the gateway understands it."""

    source: IntentSource = Field(description="What says where it should leave.")
    country: str | None
    city: str | None
    pool: str | None
    session: str | None
    user: str | None
    group: str | None


class TargetOut(ResponseModel):
    host: str
    port: int


class TriedRouteOut(ResponseModel):
    """A route that was looked at."""

    id: UUID
    name: str
    position: int
    failed: MatchFailure | None = Field(description="The first condition that did not hold; null: this one decided.")


class ExitSeenOut(ResponseModel):
    id: UUID
    name: str
    state: ExitState
    distance: int = Field(description="0: in the gateway's zone, 1: in its region, 2: elsewhere.")
    standby: bool = Field(description="Whether it serves only when no other exit of its pool would.")
    serves: bool
    why_not: str = Field(description="Empty if it would serve.")


class PoolSeenOut(ResponseModel):
    id: UUID
    name: str
    exits: list[ExitSeenOut] = Field(description="In the order in which they are preferred.")


class PathOut(ResponseModel):
    weight: int
    pools: list[PoolSeenOut] = Field(description="Each is used when those before it have no exit that serves.")


class RefusalOut(ResponseModel):
    status: int
    text: str


class ExplainOut(ResponseModel):
    """What the fleet's gateways make of the request."""

    fleet: str
    listener: str
    at: datetime
    revision: int = Field(description="Of the declared state that this was told from.")
    wish: ClientIntentOut
    target: TargetOut
    routes: list[TriedRouteOut] = Field(description="Those that were looked at, in order, up to the one that decided.")
    ways: list[PathOut] = Field(description="Where it goes, one of these by weight; none: it is refused.")
    refusal: RefusalOut | None = Field(description="What the client is answered if it goes nowhere.")
    summary: str
