"""Exits as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Self
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from api.features.rollouts.schemas import RejectedOut
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

STAYS_MAX: Final = 1_000
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - the exit's listener demands a gateway's certificate


Weight = Annotated[int, Field(ge=1, le=128)]
Capacity = Annotated[int, Field(ge=1, le=1_000_000)]
Amount = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


_CREDENTIAL_MAX = 255


def _check_credential(value: str) -> str:
    # RFC 7617, section 2
    if not value.isprintable():
        raise bad_value("bad_credential", "this holds control characters", "send printable text")
    return value


def _check_username(value: str) -> str:
    if ":" in value:
        raise bad_value("bad_credential", "a user name that is sent in a header holds no colon", "send one without it")
    return value


Credential = Annotated[str, Field(min_length=1, max_length=_CREDENTIAL_MAX), AfterValidator(_check_credential)]


class ParentIn(RequestModel):
    """An HTTP proxy beside the exit, such as gluetun's, that it sends all traffic on to."""

    address: Host = Field(description="As the exit sees it: an IP address, or a host name.")
    port: Port
    username: Annotated[Credential, AfterValidator(_check_username)] | None = Field(
        default=None, description="null: the proxy asks for no credentials."
    )
    password: Credential | None = Field(
        default=None,
        repr=False,
        description="Never shown again; it travels to the exit's own Envoy by SDS alone. Left out, it stays as it is, as long as "
        "address, port and username do.",
    )

    @model_validator(mode="after")
    def _check_both(self) -> Self:
        if self.password is not None and self.username is None:
            raise bad_value("no_username", "there is a password and no user name", "send both, or neither")
        return self


class ParentOut(ResponseModel):
    address: str
    port: int
    username: str | None


class ExitIn(RequestModel):
    """An exit. Its name is unique in its fleet."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "us-1", "pool": "us", "fleet": "demo", "address": "198.51.100.7", "port": 8443}]
        }
    )

    name: Name
    pool: Reference
    fleet: Reference | None = Field(default=None, description="Needed where several fleets have a pool of this name.")
    address: Host = Field(description="What gateways dial.")
    port: Port
    bind_address: IpAddress = Field(default=ANY_ADDRESS, description="What the exit's Envoy listens on.")
    egress_address: SourceAddress | None = Field(
        default=None, description="The source address towards targets; null: the kernel's choice."
    )
    locality: Locality | None = Field(
        default=None, description="Where it stands: gateways prefer the exits near them. null: unknown."
    )
    weight: Weight = Field(default=1, description="Its share beside the other exits of its pool.")
    standby: bool = Field(default=False, description="Whether it serves only when no other exit of its pool does.")
    capacity: Capacity | None = Field(
        default=None,
        description="How many requests it should carry at once: while it carries that many it is degraded, and others are "
        "preferred. null: no limit.",
    )
    cost: Amount | None = Field(
        default=None,
        description="What traffic through it costs, in any unit that the pool's exits have in common. null: as much as the "
        "dearest of its pool.",
    )
    monthly_cap_gb: Amount | None = Field(
        default=None,
        description="How much it carries in a month (UTC, both directions, 10^9 bytes), until it is drained. null: no limit.",
    )
    parent: ParentIn | None = Field(default=None, description="null: its Envoy dials targets itself.")
    enabled: bool = True


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
    parent: ParentIn | None = Field(default_factory=absent, description="As a whole; null: none any more.")
    enabled: bool = Field(
        default_factory=absent, description="false takes the exit out; true lets its next heartbeat bring it back."
    )


class ExitQuery(FleetListQuery):
    pool: Reference | None = Field(None, description="Only those of this pool, by its name or id.")
    country: Country | None = None
    state: ExitState | None = None
    locality: Locality | None = None


class ObservationOut(ResponseModel):
    """What the agent saw through the tunnel."""

    address: str | None = None
    address_v6: str | None = Field(None, description="Where IPv6 comes out, if it does.")
    country: str | None = Field(None, description="null while anything is in doubt: see `trouble`.")
    city: str | None = None
    network: str | None = None
    time_zone: str | None = None
    resolver: str | None = Field(None, description="Who was seen to resolve its names, and where that is.")
    trouble: str = ""
    disagreement: str = ""
    leak: str = ""
    previous_address: str | None = None
    changed_at: datetime | None = Field(None, description="When the address changed from the previous one.")
    rtt_ms: float | None = Field(None, description="What a connection through the tunnel takes, rounded.")
    download_mbps: float | None = None
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
    endpoint: str | None = Field(description="The IP address that gateways dial; null while a host name is unresolved.")
    port: int
    bind_address: str
    egress_address: str | None
    locality: str | None
    weight: int
    standby: bool
    capacity: int | None
    cost: float | None
    monthly_cap_gb: float | None
    share: int = Field(description="What its weight is multiplied by, where its pool weighs.")
    open_requests: int = Field(description="As its agent said last.")
    month_gb: float = Field(description="What it has carried in the month in which it was heard of last.")
    parent: ParentOut | None
    enabled: bool
    state: ExitState
    state_reason: str
    state_since: datetime
    last_heartbeat_at: datetime | None
    observation: ObservationOut | None = Field(
        description="Where its traffic was seen to come out, and what sources say differently; null: nobody looks."
    )
    rejections: list[RejectedOut] = Field(description="What Envoys refused of what is made of this exit.")
    created_at: datetime


class StayOut(ResponseModel):
    """A state that the exit was in."""

    state: ExitState
    reason: str
    since: datetime
    until: datetime | None = Field(description="null: it still is.")


class SummaryOut(ResponseModel):
    """What a time says of an exit. Time in which an operator had taken it out counts neither for it nor against it."""

    uptime: float | None = Field(description="The part of the time in which it served clients; null: there was none.")
    serving_s: float
    failures: int = Field(description="How often it ceased to serve, other than on purpose.")
    mean_time_between_failures_s: float | None
    mean_time_to_recover_s: float | None


class HistoryOut(ResponseModel):
    since: datetime
    until: datetime
    summary: SummaryOut
    before: SummaryOut = Field(description="The same of the time before, as long: what to compare it with.")
    states: list[StayOut] = Field(description=f"The newest first, {STAYS_MAX} at most.")
