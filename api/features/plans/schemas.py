"""Requests and responses of /plans."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field

from api.http.field_types import Name, Reference, RequestModel, ResponseModel, absent
from api.kernel.collections.schemas import FleetListQuery

Bytes = Annotated[int, Field(ge=1, le=2**53)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class PlanPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"tunnels": 50}]})

    name: Name = Field(default_factory=absent)
    bandwidth_bps: Bytes | None = Field(default_factory=absent)
    requests_per_minute: Count | None = Field(default_factory=absent)
    tunnels: Count | None = Field(default_factory=absent)
    monthly_bytes: Bytes | None = Field(default_factory=absent)


class PlanIn(RequestModel):
    """Limits for users; null: no limit. Plans are stored and shown, but gateways do not enforce them yet."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "basic", "fleet": "demo", "tunnels": 20, "bandwidth_bps": 10_000_000}]}
    )

    name: Name
    fleet: Reference
    bandwidth_bps: Bytes | None = Field(
        default=None, description="Bits per second, for all tunnels of a user together."
    )
    requests_per_minute: Count | None = None
    tunnels: Count | None = Field(default=None, description="How many tunnels may be open at the same time.")
    monthly_bytes: Bytes | None = Field(
        default=None, description="Bytes in both directions, per calendar month in UTC."
    )


class PlanQuery(FleetListQuery):
    pass


class PlanOut(ResponseModel):
    id: UUID
    name: str
    fleet: str
    fleet_id: UUID
    bandwidth_bps: int | None
    requests_per_minute: int | None
    tunnels: int | None
    monthly_bytes: int | None
    created_at: datetime
