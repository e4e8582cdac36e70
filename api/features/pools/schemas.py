"""Pools as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from api.features.containers.schemas import ContainersIn, ContainersStateOut
from api.features.rollouts.schemas import RejectedOut
from api.http.field_types import City, Country, Name, Reference, RequestModel, ResponseModel, absent
from api.http.validators import bad_value
from api.kernel.collections.schemas import FleetListQuery
from model.entities import BALANCING, RESILIENCE

Percent = Annotated[int, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=1, le=100)]


class BalancingIn(RequestModel):
    """How requests are shared among the exits."""

    policy: Literal["least_request", "round_robin", "random", "session"] = Field(
        default=BALANCING.policy.value,
        description="Of two exits the one with less to do; in turn; at random, whatever the weights; or each session to one "
        "exit as long as that serves, and at random what has no session.",
    )
    weigh_by: Literal["latency", "health", "cost"] | None = Field(
        default=None,
        description="What multiplies the declared weights of the exits, found anew once a minute: short round trips, the part "
        "of the last day in which they served, or a low `cost`.",
    )
    session_ttl_s: Literal[60, 300, 600, 1800, 3600, 86400] | None = Field(
        default=None,
        description="With the policy `session`: after so many seconds a session may get another exit. null: never.",
    )

    @model_validator(mode="after")
    def _fits(self) -> BalancingIn:
        if self.session_ttl_s is not None and self.policy != "session":
            message = "only sessions have a time to live"
            raise bad_value("bad_balancing", message, "set policy to session, or leave session_ttl_s out")
        return self


class ResilienceIn(RequestModel):
    """What of its exits' failures a pool bears: failures to reach an exit, never those of targets."""

    max_ejection_percent: Percent = Field(
        default=RESILIENCE.max_ejection_percent, description="How many of the exits may be ejected at a time."
    )
    panic_threshold_percent: Percent = Field(
        default=RESILIENCE.panic_threshold_percent,
        description="When fewer are well, requests go to all as if they were. 0: never, so that it fails closed.",
    )
    ejection_time_s: int = Field(
        default=RESILIENCE.ejection_time_s,
        ge=1,
        le=3_600,
        description="How long at most the first time; the second time twice as long.",
    )
    max_ejection_time_s: int = Field(
        default=RESILIENCE.max_ejection_time_s, ge=1, le=86_400, description="Not below `ejection_time_s`."
    )
    failures_to_eject: Count = Field(default=RESILIENCE.failures_to_eject, description="In a row.")
    check_interval_s: int = Field(default=RESILIENCE.check_interval_s, ge=1, le=600)
    check_timeout_s: int = Field(default=RESILIENCE.check_timeout_s, ge=1, le=60)
    unhealthy_after: Count = Field(default=RESILIENCE.unhealthy_after, description="Checks in a row that failed.")
    healthy_after: Count = Field(default=RESILIENCE.healthy_after, description="Checks in a row that did not.")
    degraded_above_ms: int | None = Field(
        default=RESILIENCE.degraded_above_ms,
        ge=1,
        le=60_000,
        description="An exit whose round trips take longer is degraded: it serves when healthy ones are too few. null: never.",
    )
    falls_borne: int = Field(
        default=RESILIENCE.falls_borne,
        ge=0,
        le=1_000,
        description="An exit that fell out more often within `falls_window_s` has to be up for `hold_down_s` to serve again.",
    )
    falls_window_s: int = Field(default=RESILIENCE.falls_window_s, ge=1, le=86_400)
    hold_down_s: int = Field(default=RESILIENCE.hold_down_s, ge=0, le=3_600)

    @model_validator(mode="after")
    def _is_in_order(self) -> ResilienceIn:
        if self.max_ejection_time_s < self.ejection_time_s:
            message = "the longest ejection is shorter than the first"
            raise bad_value("bad_resilience", message, "raise max_ejection_time_s, or lower ejection_time_s")
        return self


class PoolIn(RequestModel):
    """A pool. A fleet has one for each country, and one for each city, besides those that are only asked for by name."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "us",
                    "fleet": "demo",
                    "country": "us",
                    "balancing": {"policy": "session"},
                    "resilience": {"failures_to_eject": 5},
                }
            ]
        }
    )

    name: Name
    fleet: Reference
    country: Country
    city: City | None = Field(default=None, description="null: it serves the country as a whole.")
    only_by_name: bool = Field(
        default=False, description="Whether clients get it only by its name, or by a route, not by the country or city."
    )
    balancing: BalancingIn = BalancingIn()
    resilience: ResilienceIn = ResilienceIn()
    containers: ContainersIn | None = Field(
        default=None,
        description="The containers that its exits run in, and are kept running; null: exits come by themselves.",
    )


class PoolPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"country": "gb"}]})

    name: Name = Field(default_factory=absent)
    country: Country = Field(default_factory=absent)
    city: City | None = Field(default_factory=absent)
    only_by_name: bool = Field(default_factory=absent)
    balancing: BalancingIn = Field(default_factory=absent, description="In whole: what is left out is as by default.")
    resilience: ResilienceIn = Field(default_factory=absent, description="In whole: what is left out is as by default.")
    containers: ContainersIn | None = Field(
        default_factory=absent, description="In whole. null: those there are drained, and removed with their exits."
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
    balancing: BalancingIn
    resilience: ResilienceIn
    containers: ContainersIn | None
    containers_state: ContainersStateOut | None = Field(description="null: it wants no containers, and has none.")
    rejections: list[RejectedOut] = Field(description="What Envoys refused of what is made of this pool.")
    created_at: datetime
