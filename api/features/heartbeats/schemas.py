"""Requests and responses of heartbeats.

Agents of release 0.1.0 use other names for some fields. They are accepted until release 0.3.0, because one unknown field would refuse the
whole heartbeat, and an exit without heartbeats is taken out.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, AwareDatetime, Field, ValidationInfo

from api.features.orders.schemas import AgentOrderOut, OrderResultIn
from api.http.field_types import IpAddress, Port, RequestModel, ResponseModel, Text
from api.http.validators import bad_value
from model.exit_states import ExitState

UpOrDown = Literal["up", "down"]
_HOST_AND_PORT = r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$"


_ReportText = Annotated[Text, Field(max_length=500)]
_Mbps = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
_CLOCK_AHEAD_MAX = timedelta(hours=1)
"""The allowed distance into the future. It is more than the clock skew that a heartbeat's signature tolerates."""


def _check_moment(value: AwareDatetime, info: ValidationInfo) -> AwareDatetime:
    now = (info.context or {}).get("now")
    if now is not None and value > now + _CLOCK_AHEAD_MAX:
        raise bad_value(
            "time_in_future", "this time lies in the future", "send a time in the past, and correct the agent's clock"
        )
    return value


Moment = Annotated[AwareDatetime, AfterValidator(_check_moment)]
"""A time with a time zone that is not in the future, by `now` in the validation context."""


class ObservationIn(RequestModel):
    """The public address of traffic through the tunnel, as reported by services that the agent asked through it."""

    address: Annotated[str, Field(max_length=45)] | None = None
    country: Annotated[str, Field(pattern="^[a-z]{2}$")] | None = Field(None, description="ISO 3166-1 alpha-2.")
    city: _ReportText | None = None
    network: _ReportText | None = None
    time_zone: _ReportText | None = None
    error: _ReportText = Field(
        "", validation_alias=AliasChoices("error", "trouble"), description="Why the country is not known."
    )
    conflict: _ReportText = Field(
        "", validation_alias=AliasChoices("conflict", "disagreement"), description="What the services disagree about."
    )
    leak: _ReportText = Field(
        "", description="What leaves outside the tunnel. A leaking exit is not offered to clients."
    )
    address_v6: Annotated[str, Field(max_length=45)] | None = Field(
        None, description="The public IPv6 address, if IPv6 traffic leaves."
    )
    resolver: _ReportText | None = Field(None, description="The observed DNS resolver.")
    previous_address: Annotated[str, Field(max_length=45)] | None = None
    changed_at: Moment | None = Field(None, description="When the address changed from `previous_address`.")
    rtt_ms: Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False)] | None = Field(
        None, description="Round-trip time of a connection through the tunnel."
    )
    download_mbps: _Mbps | None = Field(None, description="Download speed in Mbit/s, from the last measurement.")
    upload_mbps: _Mbps | None = None
    speed_measured_at: Moment | None = None


class HeartbeatIn(RequestModel):
    envoy: UpOrDown = Field(description="Whether the proxy's Envoy is live.")
    stopping: bool = Field(
        default=False,
        validation_alias=AliasChoices("stopping", "leaving"),
        description="Whether the proxy is about to stop on purpose. It is then not offered to clients.",
    )
    reason: Annotated[Text, Field(max_length=500)] = Field(default="", description="Why the tunnel or Envoy is down.")
    version: Annotated[Text, Field(max_length=64)] = Field(default="", description="The agent's version.")
    metrics_address: Annotated[str, Field(max_length=261, pattern=_HOST_AND_PORT)] | None = Field(
        None, description="`host:port` at which Prometheus scrapes the proxy's Envoy; null: it serves no metrics."
    )


class DialAddress(RequestModel):
    """The address and port at which gateways dial an exit."""

    address: IpAddress
    port: Port


class ExitHeartbeatIn(HeartbeatIn):
    """The heartbeat of an exit's agent."""

    tunnel: UpOrDown = Field(description="Whether the tunnel carries traffic.")
    observation: ObservationIn | None = Field(
        None,
        description="If present, the exit is offered only while its country is the pool's; null: the agent observes nothing.",
    )
    open_requests: int = Field(0, ge=0, le=10_000_000, description="Open requests and tunnels.")
    carried_bytes: int = Field(
        0, ge=0, le=2**62, description="Bytes that Envoy carried since it started, in both directions."
    )
    order_results: list[OrderResultIn] = Field(
        [],
        max_length=16,
        validation_alias=AliasChoices("order_results", "settled"),
        description="The results of orders. Sent again until a heartbeat is accepted.",
    )
    removed_endpoints: tuple[()] = ()


class ProxyHeartbeatIn(HeartbeatIn):
    """The heartbeat of a gateway's agent, or of any proxy. Gateways have no tunnel."""

    tunnel: UpOrDown = "up"
    observation: None = None
    open_requests: Literal[0] = 0
    carried_bytes: Literal[0] = 0
    order_results: tuple[()] = ()
    removed_endpoints: list[DialAddress] = Field(
        [],
        max_length=100,
        validation_alias=AliasChoices("removed_endpoints", "gone"),
        description="Exits that were removed from its configuration while connections to them are open.",
    )


class HeartbeatOut(ResponseModel):
    state: ExitState | None = Field(description="The state of the exit; null for a gateway.")
    interval_s: int = Field(description="Seconds until the next heartbeat is due.")
    authority_version: str = Field(
        "", description="The version of the authority: the agent renews its certificate when it is a new one."
    )
    orders: list[AgentOrderOut] = Field([], description="Orders to the exit's agent. Each is carried out once.")
    endpoints_to_cut: list[DialAddress] = Field(
        [],
        description="Those of `removed_endpoints` whose open tunnels must be cut, because the exits leak or were removed.",
    )
    cut: list[DialAddress] = Field([], deprecated=True, description="`endpoints_to_cut`, for agents of release 0.1.0.")
