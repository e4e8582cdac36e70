"""Requests and responses of /api-keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema

from api.features.operators.schemas import Fleets, Role
from api.http.field_types import Moment, Name, RequestModel, ResponseModel, absent
from api.http.validators import bad_value
from api.kernel.api_key_scopes import SCOPES
from api.kernel.collections.schemas import ListQuery, Pattern
from api.kernel.roles import OperatorRole

_EXAMPLE: dict[str, Any] = {
    "name": "exporter",
    "role": "viewer",
    "scopes": ["exits:read", "proxies:read"],
    "expires_at": "2999-01-01T00:00:00Z",
}


def _check_scope(value: str) -> str:
    if value not in SCOPES:
        raise bad_value("bad_scope", "this scope does not exist", f"send some of {', '.join(sorted(SCOPES))}")
    return value


Scope = Annotated[str, AfterValidator(_check_scope), WithJsonSchema({"type": "string", "enum": sorted(SCOPES)})]
Scopes = Annotated[
    list[Scope],
    Field(
        max_length=len(SCOPES),
        description="The scopes of the key, such as `exits:read`; null: everything that the role may do.",
    ),
]


class ApiKeyIn(RequestModel):
    """An API key. Its rights may not exceed those of the caller who creates it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Name
    role: Role
    fleets: Fleets | None = None
    scopes: Scopes | None = None
    expires_at: Moment | None = Field(None, description="When the key expires; null: never.")


class ApiKeyPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "exporter-2"}]})

    name: Name = Field(default_factory=absent)
    role: Role = Field(default_factory=absent)
    fleets: Fleets | None = Field(default_factory=absent)
    scopes: Scopes | None = Field(default_factory=absent)
    expires_at: Moment | None = Field(default_factory=absent)


class ApiKeyQuery(ListQuery):
    name: Pattern | None = None


class ApiKeyOut(ResponseModel):
    id: UUID
    name: str
    operator_id: UUID
    role: OperatorRole
    fleets: list[UUID] | None
    scopes: list[str] | None
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="When the key was last used, to the minute.")
    created_at: datetime
    key: str | None = Field(
        None,
        description="The key, for the header `Authorization: Bearer …`. Only in the reply that creates it; null later, and in "
        "replies repeated under an Idempotency-Key.",
    )
