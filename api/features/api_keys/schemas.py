"""API keys as the API takes and shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema

from api.features.operators.schemas import Fleets, Role
from api.http.field_types import Name, RequestModel, ResponseModel, absent
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


def _read_moment(value: object) -> datetime:
    hint = "send a time with its zone, for example 2027-01-01T00:00:00Z"
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is None or moment.tzinfo is None:
            raise bad_value("bad_time", "this is no time with a zone", hint)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise bad_value("bad_time", "this is no time with a zone", hint) from error


def _check_scope(value: str) -> str:
    if value not in SCOPES:
        raise bad_value("bad_scope", "there is no such scope", f"send some of {', '.join(sorted(SCOPES))}")
    return value


Moment = Annotated[
    datetime,
    BeforeValidator(_read_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2999-01-01T00:00:00Z"]}),
]
Scope = Annotated[str, AfterValidator(_check_scope), WithJsonSchema({"type": "string", "enum": sorted(SCOPES)})]
Scopes = Annotated[
    list[Scope], Field(max_length=len(SCOPES), description="What it is good for; null: all that the role may.")
]


class ApiKeyIn(RequestModel):
    """Nothing of it may go beyond what whoever makes it may."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Name
    role: Role
    fleets: Fleets | None = None
    scopes: Scopes | None = None
    expires_at: Moment | None = Field(None, description="Null: never.")


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
    last_used_at: datetime | None = Field(description="To the minute.")
    created_at: datetime
    key: str | None = Field(
        None,
        description="For `Authorization: Bearer`. Given once, when it is made; null ever after, and in a repetition.",
    )
