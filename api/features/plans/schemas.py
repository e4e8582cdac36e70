"""Plans as the API takes and shows them."""

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
    """What users of it may use; null: without a limit. Kept and shown; gateways do not hold users to it yet."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "basic", "fleet": "demo", "tunnels": 20, "bandwidth_bps": 10_000_000}]}
    )

    name: Name
    fleet: Reference
    bandwidth_bps: Bytes | None = Field(default=None, description="Bits a second, for all of a user's tunnels.")
    requests_per_minute: Count | None = None
    tunnels: Count | None = Field(default=None, description="Open at the same time.")
    monthly_bytes: Bytes | None = Field(default=None, description="In both directions, by calendar month in UTC.")


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
