"""What proxies say of themselves, and what they are answered."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, ValidationInfo

from api.features.orders.schemas import OrderSaid, SettledIn
from api.http.field_types import IpAddress, Port, RequestModel, ResponseModel, Text
from api.http.validators import bad_value
from model.exit_states import ExitState

UpOrDown = Literal["up", "down"]


_Said = Annotated[Text, Field(max_length=500)]
_Mbps = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
_AHEAD = timedelta(hours=1)
"""How far a time may lie in the future: more than a clock may be off whose heartbeats are taken at all."""


def _check_moment(value: AwareDatetime, info: ValidationInfo) -> AwareDatetime:
    now = (info.context or {}).get("now")
    if now is not None and value > now + _AHEAD:
        raise bad_value("from_the_future", "this time has not come yet", "send when it was, and set the clock right")
    return value


Moment = Annotated[AwareDatetime, AfterValidator(_check_moment)]
"""A time with its zone that has come, by the clock `now` in the context of validation."""


class ObservationIn(RequestModel):
    """Where traffic comes out that goes through the tunnel, as services say that were asked through it."""

    address: Annotated[str, Field(max_length=45)] | None = None
    country: Annotated[str, Field(pattern="^[a-z]{2}$")] | None = Field(None, description="ISO 3166-1 alpha-2.")
    city: _Said | None = None
    network: _Said | None = None
    time_zone: _Said | None = None
    trouble: _Said = Field("", description="Why nothing is known.")
    disagreement: _Said = Field("", description="What services say differently.")
    leak: _Said = Field("", description="What leaves outside the tunnel: the exit is offered to nobody.")
    address_v6: Annotated[str, Field(max_length=45)] | None = Field(
        None, description="Where IPv6 comes out, if it does."
    )
    resolver: _Said | None = Field(None, description="Who was seen to resolve its names.")
    previous_address: Annotated[str, Field(max_length=45)] | None = None
    changed_at: Moment | None = Field(None, description="When the address changed from the previous one.")
    rtt_ms: Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False)] | None = Field(
        None, description="A connection through the tunnel."
    )
    download_mbps: _Mbps | None = Field(None, description="Mbit/s, when speed was measured.")
    upload_mbps: _Mbps | None = None
    speed_measured_at: Moment | None = None


class HeartbeatIn(RequestModel):
    envoy: UpOrDown = Field(description="Whether the proxy's Envoy is live.")
    leaving: bool = Field(default=False, description="The proxy is about to stop on purpose: offer it to nobody.")
    reason: Annotated[Text, Field(max_length=500)] = Field(default="", description="Why something is down.")
    version: Annotated[Text, Field(max_length=64)] = Field(default="", description="The agent's version.")


class DialAddress(RequestModel):
    """Where gateways dial an exit."""

    address: IpAddress
    port: Port


class ExitHeartbeatIn(HeartbeatIn):
    """What the agent beside a tunnel says."""

    tunnel: UpOrDown = Field(description="Whether traffic leaves through the tunnel.")
    observation: ObservationIn | None = Field(
        None, description="With one the exit is offered only while it names the pool's country; null: nobody looks."
    )
    open_requests: int = Field(0, ge=0, le=10_000_000, description="How many requests and tunnels are open.")
    carried_bytes: int = Field(
        0, ge=0, le=2**62, description="What its Envoy carried since it was started, in both directions."
    )
    settled: list[SettledIn] = Field([], max_length=16, description="What came of orders. Said until it was heard.")
    gone: tuple[()] = ()


class ProxyHeartbeatIn(HeartbeatIn):
    """What the agent of any proxy says; gateways have no tunnel."""

    tunnel: UpOrDown = "up"
    observation: None = None
    open_requests: Literal[0] = 0
    carried_bytes: Literal[0] = 0
    settled: tuple[()] = ()
    gone: list[DialAddress] = Field(
        [], max_length=100, description="Exits that left its configuration while connections to them are open."
    )


class HeartbeatOut(ResponseModel):
    state: ExitState | None = Field(description="How the control plane sees the exit; null for a gateway.")
    interval_s: int = Field(description="When to send the next, in seconds.")
    orders: list[OrderSaid] = Field([], description="What an exit's agent should do, each once.")
    cut: list[DialAddress] = Field(
        [],
        description="Of the exits that are `gone` those whose open tunnels must not go on: they leak, or were removed.",
    )
