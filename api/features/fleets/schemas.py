"""Requests and responses of /fleets."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from api.features.rejections.schemas import RejectedOut
from api.http.field_types import LoopbackAddress, Name, Port, RequestModel, ResponseModel, absent
from api.http.validators import bad_value
from api.kernel.collections.schemas import ListQuery, Pattern

SMALLEST_SHARE: Final = 0.0001
"""Envoy decides by the remainder of a random number after division by 10,000."""
_EXAMPLE: dict[str, Any] = {"name": "demo", "listener": {"address": "127.0.0.1", "port": 8080}}


class FirstListenerIn(RequestModel):
    """The address and port at which the fleet's gateways accept clients."""

    address: LoopbackAddress
    port: Port


class FirstListenerPatch(RequestModel):
    address: LoopbackAddress = Field(default_factory=absent)
    port: Port = Field(default_factory=absent)


class TracingIn(RequestModel):
    """The spans that the fleet's gateways and exits export to the collector that their agents name (`--otlp`)."""

    share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description=f"The share of clients' requests that are traced, in steps of {SMALLEST_SHARE}. 0 keeps tracing ready, without spans.",
    )
    targets: bool = Field(
        default=False, description="Whether spans name the target's host and port. They never have its path."
    )

    @model_validator(mode="after")
    def _is_not_rounded_to_none(self) -> TracingIn:
        if 0 < self.share < SMALLEST_SHARE:
            message = f"the smallest share above 0 is {SMALLEST_SHARE}"
            raise bad_value("bad_share", message, f"send 0, or at least {SMALLEST_SHARE}")
        return self


class FleetIn(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Name
    listener: FirstListenerIn | None = Field(
        default=None, description="The listener `clients`. null: create none, or leave an existing one unchanged."
    )
    tracing: TracingIn | None = Field(
        default=None,
        description="The spans of gateways and exits; null: none. Setting or removing it, or changing `targets`, changes listeners, "
        "which drains their open tunnels; another `share` does not.",
    )


class FleetPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"listener": {"port": 8081}}]})

    name: Name = Field(default_factory=absent)
    listener: FirstListenerPatch = Field(default_factory=absent)
    tracing: TracingIn | None = Field(
        default_factory=absent, description="Replaces the whole object: fields left out get their defaults."
    )


class FleetQuery(ListQuery):
    name: Pattern | None = None


class FirstListenerOut(ResponseModel):
    address: str
    port: int


class TracingOut(ResponseModel):
    share: float
    targets: bool


class FleetOut(ResponseModel):
    id: UUID
    name: str
    listener: FirstListenerOut | None = Field(description="The listener `clients`; `/listeners` lists all listeners.")
    tracing: TracingOut | None
    rejections: list[RejectedOut] = Field(
        description="The versions of the fleet's listeners and routes that gateways rejected."
    )
    created_at: datetime
