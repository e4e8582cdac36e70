"""Requests and responses of /users."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import ConfigDict, Field

from api.http.field_types import Moment, Name, Reference, RequestModel, ResponseModel, UserName, absent
from api.kernel.collections.schemas import FleetListQuery


class UserIn(RequestModel):
    """A user of gateways."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "alice", "fleet": "demo", "group": "staff"}]})

    name: UserName
    fleet: Reference
    group: Name | None = Field(default=None, description="The group of the user. Routes can match it.")
    plan: Reference | None = None
    enabled: bool = Field(default=True, description="false: gateways refuse the user's new requests.")
    expires_at: Moment | None = Field(
        default=None, description="Gateways refuse the user's requests from then on; null: never."
    )


class UserPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"group": "staff"}]})

    name: UserName = Field(default_factory=absent)
    group: Name | None = Field(default_factory=absent)
    plan: Reference | None = Field(default_factory=absent)
    enabled: bool = Field(default_factory=absent)
    expires_at: Moment | None = Field(default_factory=absent)


class UserQuery(FleetListQuery):
    group: Name | None = None
    plan: Reference | None = None


class UserSecretOut(ResponseModel):
    """A secret of a user, with which clients log in at listeners that authenticate."""

    id: str = Field(description="Its first character.")
    created_at: datetime
    secret: str | None = Field(default=None, description="The secret itself; only in the reply to its creation.")


class UserOut(ResponseModel):
    id: UUID
    name: str
    fleet: str
    fleet_id: UUID
    group: str | None
    plan: str | None
    plan_id: UUID | None
    enabled: bool
    expires_at: datetime | None
    secrets: list[UserSecretOut] = Field(description="The secrets that are valid, at most two, the oldest first.")
    created_at: datetime
