"""Operators as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field

from api.http.field_types import Name, Reference, RequestModel, ResponseModel, absent
from api.http.secret_fields import NewPassword
from api.http.validators import bad_value
from api.kernel.collections.schemas import ListQuery, Pattern
from api.kernel.roles import OperatorRole

KEEP: Final = ""
"""Stands for a password that was not sent."""
_EXAMPLE: dict[str, Any] = {"name": "ada", "role": "operator", "fleets": ["demo"], "password": "correct horse battery"}


def _check_subject(value: str) -> str:
    issuer, found, subject = value.partition("#")
    if not issuer or not found or not subject or not value.isprintable():
        hint = "send the issuer, a # and the account's subject, for example https://login.example.net#248289761001"
        raise bad_value("bad_subject", "this is no issuer#subject", hint)
    return value


def _keep() -> Any:
    return KEEP


Role = Annotated[Literal["admin", "operator", "viewer"], Field(description="Each may what the next one may.")]
Fleets = Annotated[
    list[Reference],
    Field(max_length=1_000, description="The fleets that there are for them, by names or ids; null: all."),
]
Subject = Annotated[
    str,
    Field(max_length=500, description="`issuer#subject` of the account that may log in by OIDC."),
    AfterValidator(_check_subject),
]


class OperatorIn(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Name
    role: Role
    fleets: Fleets | None = None
    password: NewPassword | None = Field(
        default_factory=_keep, description="Never shown. Null: they log in otherwise. What is not sent does not change."
    )
    oidc_subject: Subject | None = None
    disabled: bool = Field(False, description="Whether they, and their API keys, are kept out.")


class OperatorPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "viewer"}]})

    name: Name = Field(default_factory=absent)
    role: Role = Field(default_factory=absent)
    fleets: Fleets | None = Field(default_factory=absent)
    password: NewPassword | None = Field(default_factory=absent)
    oidc_subject: Subject | None = Field(default_factory=absent)
    disabled: bool = Field(default_factory=absent)
    has_totp: Literal[False] = Field(
        default_factory=absent, description="False takes the second factor away from who lost it."
    )


class OperatorQuery(ListQuery):
    name: Pattern | None = None
    role: Role | None = None
    disabled: bool | None = None


class OperatorOut(ResponseModel):
    id: UUID
    name: str
    role: OperatorRole
    fleets: list[UUID] | None = Field(description="Ids; null: all.")
    has_password: bool
    has_totp: bool
    oidc_subject: str | None
    disabled: bool
    last_login_at: datetime | None
    created_at: datetime
