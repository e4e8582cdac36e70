"""Requests and responses of /users."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import ConfigDict, Field

from api.http.field_types import Name, Reference, RequestModel, ResponseModel, UserName, absent
from api.kernel.collections.schemas import FleetListQuery


class UserIn(RequestModel):
    """A user of gateways."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "alice", "fleet": "demo", "group": "staff"}]})

    name: UserName
    fleet: Reference
    group: Name | None = Field(default=None, description="The group of the user. Routes can match it.")
    plan: Reference | None = None


class UserPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"group": "staff"}]})

    name: UserName = Field(default_factory=absent)
    group: Name | None = Field(default_factory=absent)
    plan: Reference | None = Field(default_factory=absent)


class UserQuery(FleetListQuery):
    group: Name | None = None
    plan: Reference | None = None


class UserOut(ResponseModel):
    id: UUID
    name: str
    fleet: str
    fleet_id: UUID
    group: str | None
    plan: str | None
    plan_id: UUID | None
    created_at: datetime
