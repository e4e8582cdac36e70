"""Requests and responses of /exits."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Self
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from api.features.rejections.schemas import RejectedOut
from api.http.field_types import (
    Country,
    Host,
    IpAddress,
    Locality,
    Name,
    Port,
    Reference,
    RequestModel,
    ResponseModel,
    SourceAddress,
    absent,
)
from api.http.validators import bad_value
from api.kernel.collections.schemas import FleetListQuery
from model.exit_states import ExitState

STATE_PERIODS_MAX: Final = 1_000
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - the exit's listener demands a gateway's certificate


Weight = Annotated[int, Field(ge=1, le=128)]
Capacity = Annotated[int, Field(ge=1, le=1_000_000)]
Amount = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


_CREDENTIAL_MAX = 255


def _check_credential(value: str) -> str:
    # RFC 7617, section 2
    if not value.isprintable():
        raise bad_value("bad_credential", "this contains control characters", "send printable text")
    return value


def _check_username(value: str) -> str:
    if ":" in value:
        raise bad_value(
            "bad_credential",
            "a user name for basic authentication contains no colon",
            "send a user name without a colon",
        )
    return value


def _check_parent_host(value: str) -> str:
    # an exit drops the addresses of its own host from those that a name has
    if value.removesuffix(".").split(".")[-1] == "localhost":
        raise bad_value("bad_host", "exits look up no name of their own host", "send 127.0.0.1")
    return value


Credential = Annotated[str, Field(min_length=1, max_length=_CREDENTIAL_MAX), AfterValidator(_check_credential)]


class ParentIn(RequestModel):
    """An HTTP proxy beside the exit, such as gluetun's, to which the exit sends all traffic."""

    address: Annotated[Host, AfterValidator(_check_parent_host)] = Field(
        description="The IP address or host name, as seen from the exit. Only the exit's agent names one of the exit's own host or "
        "link, and only as an address."
    )
    port: Port
    username: Annotated[Credential, AfterValidator(_check_username)] | None = Field(
        default=None, description="null: the proxy needs no credentials."
    )
    password: Credential | None = Field(
        default=None,
        repr=False,
        description="Never shown again; only the exit's own Envoy receives it, over SDS. Left out, a stored password stays, as long as "
        "address, port and username stay.",
    )

    @model_validator(mode="after")
    def _check_both(self) -> Self:
        if self.password is not None and self.username is None:
            raise bad_value("no_username", "there is a password, but no user name", "send both, or neither")
        return self


class ParentOut(ResponseModel):
    address: str
    port: int
    username: str | None


class ExitIn(RequestModel):
    """An exit. Its name is unique within its fleet."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "us-1", "pool": "us", "fleet": "demo", "address": "198.51.100.7", "port": 8443}]
        }
    )

    name: Name
    pool: Reference
    fleet: Reference | None = Field(default=None, description="Required if several fleets have a pool of this name.")
    address: Host = Field(description="The IP address or host name that gateways dial.")
    port: Port
    bind_address: IpAddress = Field(default=ANY_ADDRESS, description="The IP address that the exit's Envoy listens on.")
    egress_address: SourceAddress | None = Field(
        default=None, description="The source address of connections to targets; null: the kernel chooses."
    )
    locality: Locality | None = Field(
        default=None,
        description="Where the exit runs: `region` or `region/zone`. Gateways prefer near exits. null: unknown.",
    )
    weight: Weight = Field(default=1, description="The load-balancing weight among the exits of the pool.")
    standby: bool = Field(
        default=False, description="Whether the exit serves only when no other exit of its pool does."
    )
    capacity: Capacity | None = Field(
        default=None,
        description="How many requests the exit should carry at once. While it carries that many it is degraded, and other exits are "
        "preferred. null: no limit.",
    )
    cost: Amount | None = Field(
        default=None,
        description="The cost of traffic, in any unit that the exits of the pool share. null: as much as the most expensive "
        "exit of the pool.",
    )
    monthly_cap_gb: Amount | None = Field(
        default=None,
        description="Traffic per calendar month (UTC, both directions, in 10^9 bytes) after which the exit is drained. null: no limit.",
    )
    parent: ParentIn | None = Field(default=None, description="null: the exit's Envoy connects to targets itself.")
    enabled: bool = Field(default=True, description="`false`: the exit is disabled and serves nobody.")


class ExitPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"port": 8444, "enabled": False}]})

    name: Name = Field(default_factory=absent)
    pool: Reference = Field(default_factory=absent, description="Another pool of the same fleet.")
    address: Host = Field(default_factory=absent)
    port: Port = Field(default_factory=absent)
    bind_address: IpAddress = Field(default_factory=absent)
    egress_address: SourceAddress | None = Field(default_factory=absent)
    locality: Locality | None = Field(default_factory=absent)
    weight: Weight = Field(default_factory=absent)
    standby: bool = Field(default_factory=absent)
    capacity: Capacity | None = Field(default_factory=absent)
    cost: Amount | None = Field(default_factory=absent)
    monthly_cap_gb: Amount | None = Field(default_factory=absent)
    parent: ParentIn | None = Field(
        default_factory=absent, description="Replaces the whole object. null: removes the parent."
    )
    enabled: bool = Field(
        default_factory=absent,
        description="`false` disables the exit; `true` lets it serve again after its next heartbeat.",
    )


class ExitQuery(FleetListQuery):
    pool: Reference | None = Field(None, description="Only exits of this pool, by name or id.")
    country: Country | None = None
    state: ExitState | None = None
    locality: Locality | None = None


class ObservationOut(ResponseModel):
    """The agent's latest observation of traffic through the tunnel."""

    address: str | None = Field(None, description="The public address.")
    address_v6: str | None = Field(None, description="The public IPv6 address, if IPv6 traffic leaves.")
    country: str | None = Field(None, description="null while the country is uncertain: see `error`.")
    city: str | None = None
    network: str | None = None
    time_zone: str | None = None
    resolver: str | None = Field(None, description="The observed DNS resolver, and its country.")
    error: str = Field("", description="Why the country is not known.")
    conflict: str = Field("", description="What the services disagree about.")
    leak: str = Field("", description="What leaves outside the tunnel. A leaking exit is not offered to clients.")
    previous_address: str | None = None
    changed_at: datetime | None = Field(None, description="When the address changed from `previous_address`.")
    rtt_ms: float | None = Field(None, description="Round-trip time of a connection through the tunnel, rounded.")
    download_mbps: float | None = Field(None, description="Download speed in Mbit/s, from the last measurement.")
    upload_mbps: float | None = None
    speed_measured_at: datetime | None = None


class ExitOut(ResponseModel):
    id: UUID
    name: str
    pool: str
    pool_id: UUID
    fleet: str
    fleet_id: UUID
    country: str
    address: str
    endpoint: str | None = Field(
        description="The IP address that gateways dial; null while the host name is unresolved."
    )
    port: int
    bind_address: str
    egress_address: str | None
    locality: str | None
    weight: int
    standby: bool
    capacity: int | None
    cost: float | None
    monthly_cap_gb: float | None
    share: int = Field(description="The factor that `weight` is multiplied by, if the pool sets `weigh_by`.")
    open_requests: int = Field(description="Open requests, from the last heartbeat.")
    month_gb: float = Field(description="Traffic in the calendar month of the last heartbeat, in 10^9 bytes.")
    parent: ParentOut | None
    enabled: bool
    state: ExitState
    state_reason: str
    state_since: datetime
    last_heartbeat_at: datetime | None
    observation: ObservationOut | None = Field(
        description="Where the exit's traffic was observed to leave; null: its agent observes nothing, it is unverified."
    )
    rejections: list[RejectedOut] = Field(description="The versions of this exit's resources that Envoys rejected.")
    created_at: datetime


class StatePeriodOut(ResponseModel):
    """A period that the exit spent in one state."""

    state: ExitState
    reason: str
    since: datetime
    until: datetime | None = Field(description="When the state ended; null: the exit is still in it.")


class SummaryOut(ResponseModel):
    """Statistics of a window. Time in which an operator had drained or disabled the exit is not counted."""

    uptime: float | None = Field(
        description="The fraction of the counted time in which the exit served; null: no time was counted."
    )
    serving_s: float
    failures: int = Field(description="How often the exit stopped serving without an operator's request.")
    mean_time_between_failures_s: float | None
    mean_time_to_recover_s: float | None


class HistoryOut(ResponseModel):
    since: datetime
    until: datetime
    summary: SummaryOut
    before: SummaryOut = Field(description="The same statistics of the previous window of the same length.")
    states: list[StatePeriodOut] = Field(
        description=f"The states in the window, newest first; at most {STATE_PERIODS_MAX}."
    )
