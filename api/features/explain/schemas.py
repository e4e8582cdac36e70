"""Queries and responses of /explain."""

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
        raise bad_value("bad_text", "this contains characters that no client can send", "send printable text")
    return value


Sent = Annotated[str, Field(max_length=255), AfterValidator(_check_sent)]


class ExplainQuery(BaseModel):
    """The request to explain: its target, and the user name and headers that the client sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: Annotated[str, Field(min_length=1, max_length=2_000), AfterValidator(_check_sent)] = Field(
        description="The requested URL, or a host with an optional port (443 by default)."
    )
    fleet: Reference | None = Field(None, description="The fleet of the gateways; required if there are several.")
    user: Sent = Field("", description="The user name, with the client's intent in it: `alice-country-de`.")
    country: Sent | None = Field(None, description="The value of the header `exit-country`.")
    city: Sent | None = Field(None, description="The value of the header `exit-city`.")
    pool: Sent | None = Field(None, description="The value of the header `exit-pool`.")
    session: Sent | None = Field(None, description="The value of the header `exit-session`.")
    listener: Reference | None = Field(
        None, description="The listener that accepts the request, by name or id; by default the first one."
    )
    server_name: Sent = Field(
        "", description="The TLS server name (SNI) that the client sends, if it connects to the gateway by TLS."
    )
    locality: Locality | None = Field(None, description="The locality of the gateway.")
    at: AwareDatetime | None = Field(None, description="The time of the request; by default now.")


class ClientIntentOut(ResponseModel):
    """The exit location that the client asks for, as the gateway understands it."""

    source: IntentSource = Field(description="Where the location comes from.")
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
    """A route that was tried."""

    id: UUID
    name: str
    position: int
    failed: MatchFailure | None = Field(description="The first condition that did not match; null: this route decided.")


class ExplainedExitOut(ResponseModel):
    id: UUID
    name: str
    state: ExitState
    distance: int = Field(description="0: the exit is in the gateway's zone, 1: in its region, 2: elsewhere.")
    standby: bool = Field(description="Whether the exit serves only when no other exit of its pool does.")
    serves: bool
    reason: str = Field(description="Why the exit would not serve; empty if it would.")


class ExplainedPoolOut(ResponseModel):
    id: UUID
    name: str
    exits: list[ExplainedExitOut] = Field(description="The exits, in order of preference.")


class ExplainedPathOut(ResponseModel):
    weight: int
    pools: list[ExplainedPoolOut] = Field(
        description="The pools: each is used only if those before it have no serving exit."
    )


class RefusalOut(ResponseModel):
    status: int
    text: str


class ExplainOut(ResponseModel):
    """The explanation of a request: its route, paths and exits, as the fleet's gateways would choose them."""

    fleet: str
    listener: str
    at: datetime
    revision: int = Field(description="The revision of the declared state that was explained.")
    intent: ClientIntentOut
    target: TargetOut
    routes: list[TriedRouteOut] = Field(description="The routes that were tried, in order, up to the one that decided.")
    paths: list[ExplainedPathOut] = Field(
        description="The possible paths, chosen by weight; empty: the request is refused."
    )
    refusal: RefusalOut | None = Field(description="The reply to the client, if the request is refused.")
    summary: str
