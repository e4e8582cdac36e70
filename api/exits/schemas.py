"""Exits as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from pydantic import ConfigDict, Field

from api.collections.listing import FleetListQuery
from api.exits.parents import ParentIn, ParentOut
from api.rollouts.schemas import RejectedOut
from api.values import Country, Host, IpAddress, Locality, Name, Port, Reference, SourceAddress, View, Wish, absent
from model.world import ExitState

HOURS_MAX: Final = 24 * 90
STAYS_MAX: Final = 1_000
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - the exit's listener demands a gateway's certificate


Weight = Annotated[int, Field(ge=1, le=128)]


class ExitIn(Wish):
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
    parent: ParentIn | None = Field(default=None, description="null: its Envoy dials targets itself.")
    enabled: bool = True


class ExitPatch(Wish):
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
    parent: ParentIn | None = Field(default_factory=absent, description="As a whole; null: none any more.")
    enabled: bool = Field(
        default_factory=absent, description="false takes the exit out; true lets its next heartbeat bring it back."
    )


class ExitQuery(FleetListQuery):
    pool: Reference | None = Field(None, description="Only those of this pool, by its name or id.")
    country: Country | None = None
    state: ExitState | None = None
    locality: Locality | None = None


class ExitOut(View):
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
    parent: ParentOut | None
    enabled: bool
    state: ExitState
    state_reason: str
    state_since: datetime
    last_heartbeat_at: datetime | None
    observation: dict[str, str | None] | None = Field(
        description="Where its traffic was seen to come out, and what sources say differently; null: nobody looks."
    )
    rejections: list[RejectedOut] = Field(description="What Envoys refused of what is made of this exit.")
    created_at: datetime


class StayOut(View):
    """A state that the exit was in."""

    state: ExitState
    reason: str
    since: datetime
    until: datetime | None = Field(description="null: it still is.")


class SummaryOut(View):
    """What a time says of an exit. Time in which an operator had taken it out counts neither for it nor against it."""

    uptime: float | None = Field(description="The part of the time in which it served clients; null: there was none.")
    serving_s: float
    failures: int = Field(description="How often it ceased to serve, other than on purpose.")
    mean_time_between_failures_s: float | None
    mean_time_to_recover_s: float | None


class HistoryOut(View):
    since: datetime
    until: datetime
    summary: SummaryOut
    before: SummaryOut = Field(description="The same of the time before, as long: what to compare it with.")
    states: list[StayOut] = Field(description=f"The newest first, {STAYS_MAX} at most.")
