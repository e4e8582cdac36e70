"""Requests and responses of /pools."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from api.features.pools.container_schemas import ContainersIn, ContainersStateOut
from api.features.rejections.schemas import RejectedOut
from api.http.field_types import City, Country, Name, Reference, RequestModel, ResponseModel, absent
from api.http.validators import bad_value
from api.kernel.collections.schemas import FleetListQuery
from model.entities import BALANCING, HASHING_POLICIES, RESILIENCE

Percent = Annotated[int, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=1, le=100)]


class BalancingIn(RequestModel):
    """The load balancing among the exits of a pool."""

    policy: Literal["least_request", "round_robin", "random", "session"] = Field(
        default=BALANCING.policy.value,
        description="`least_request`: the one of two random exits with fewer requests. `round_robin`: in turn. `random`: at random, "
        "regardless of weights. `session`: a session keeps its exit while that serves; other requests go at random.",
    )
    weigh_by: Literal["latency", "health", "cost"] | None = Field(
        default=None,
        description="What multiplies the declared weights, computed once a minute: short round trips (`latency`), the fraction "
        "of the last day in which the exit served (`health`), or a low `cost`. null: nothing.",
    )
    session_ttl_s: Literal[60, 300, 600, 1800, 3600, 86400] | None = Field(
        default=None,
        description="With the policy `session`: seconds after which a session may get another exit. null: never.",
    )

    @model_validator(mode="after")
    def _fits(self) -> BalancingIn:
        if self.session_ttl_s is not None and self.policy not in HASHING_POLICIES:
            message = "session_ttl_s needs the policy session"
            raise bad_value("bad_balancing", message, "set policy to session, or leave session_ttl_s out")
        return self


class ResilienceIn(RequestModel):
    """The health checks of a pool's exits, and the reaction to exits that flap. Failures of requests do not count."""

    panic_threshold_percent: Percent = Field(
        default=RESILIENCE.panic_threshold_percent,
        description="Below this percentage of healthy exits, requests go to all exits. 0: never, so the pool fails closed.",
    )
    check_interval_s: int = Field(
        default=RESILIENCE.check_interval_s, ge=1, le=600, description="Seconds between health checks."
    )
    check_timeout_s: int = Field(
        default=RESILIENCE.check_timeout_s, ge=1, le=60, description="Seconds after which a health check fails."
    )
    unhealthy_after: Count = Field(
        default=RESILIENCE.unhealthy_after, description="Failed checks in a row after which an exit is unhealthy."
    )
    healthy_after: Count = Field(
        default=RESILIENCE.healthy_after, description="Passed checks in a row after which it is healthy again."
    )
    degraded_above_ms: int | None = Field(
        default=RESILIENCE.degraded_above_ms,
        ge=1,
        le=60_000,
        description="Round trips above this make an exit degraded: it serves when too few exits are healthy. null: never.",
    )
    flap_threshold: int = Field(
        default=RESILIENCE.flap_threshold,
        ge=0,
        le=1_000,
        description="Failures tolerated within `flap_window_s`. After more, an exit must be up for `hold_down_s` to serve again.",
    )
    flap_window_s: int = Field(
        default=RESILIENCE.flap_window_s, ge=1, le=86_400, description="Seconds; see `flap_threshold`."
    )
    hold_down_s: int = Field(
        default=RESILIENCE.hold_down_s, ge=0, le=3_600, description="Seconds; see `flap_threshold`."
    )


class PoolIn(RequestModel):
    """A pool of exits. A fleet has at most one pool per country and per city, besides those with `only_by_name`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "us",
                    "fleet": "demo",
                    "country": "us",
                    "balancing": {"policy": "session"},
                    "resilience": {"unhealthy_after": 3},
                }
            ]
        }
    )

    name: Name
    fleet: Reference
    country: Country
    city: City | None = Field(default=None, description="The city that the pool serves; null: the whole country.")
    only_by_name: bool = Field(
        default=False, description="Whether clients reach the pool only by name or by a route, not by country or city."
    )
    allow_unverified: bool = Field(
        default=False,
        description="Whether clients are sent to exits whose agents do not observe where traffic comes out.",
    )
    balancing: BalancingIn = BalancingIn()
    resilience: ResilienceIn = ResilienceIn()
    containers: ContainersIn | None = Field(
        default=None,
        description="The containers that the control plane runs for the pool's exits; null: exits are started otherwise.",
    )


class PoolPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"country": "gb"}]})

    name: Name = Field(default_factory=absent)
    country: Country = Field(default_factory=absent)
    city: City | None = Field(default_factory=absent)
    only_by_name: bool = Field(default_factory=absent)
    allow_unverified: bool = Field(default_factory=absent)
    balancing: BalancingIn = Field(
        default_factory=absent, description="Replaces the whole object: fields left out get their defaults."
    )
    resilience: ResilienceIn = Field(
        default_factory=absent, description="Replaces the whole object: fields left out get their defaults."
    )
    containers: ContainersIn | None = Field(
        default_factory=absent,
        description="Replaces the whole object. null: drains the containers, then removes them and their exits.",
    )


class PoolQuery(FleetListQuery):
    country: Country | None = None
    city: City | None = None


class PoolOut(ResponseModel):
    id: UUID
    name: str
    fleet: str
    fleet_id: UUID
    country: str
    city: str | None
    only_by_name: bool
    allow_unverified: bool
    balancing: BalancingIn
    resilience: ResilienceIn
    containers: ContainersIn | None
    containers_state: ContainersStateOut | None = Field(
        description="null: the pool declares no containers and has none."
    )
    rejections: list[RejectedOut] = Field(description="The versions of this pool's resources that Envoys rejected.")
    created_at: datetime
