"""Requests and responses of /operators."""

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

UNCHANGED: Final = ""
"""The marker for a password that was not sent."""
_EXAMPLE: dict[str, Any] = {"name": "ada", "role": "operator", "fleets": ["demo"], "password": "correct horse battery"}


def _check_subject(value: str) -> str:
    issuer, found, subject = value.partition("#")
    if not issuer or not found or not subject or not value.isprintable():
        hint = "send the issuer, a # and the account's subject, for example https://login.example.net#248289761001"
        raise bad_value("bad_subject", "this is not of the form issuer#subject", hint)
    return value


def _unchanged() -> Any:
    return UNCHANGED


Role = Annotated[
    Literal["admin", "operator", "viewer"],
    Field(description="Each role includes the rights of the next one: admin, operator, viewer."),
]
Fleets = Annotated[
    list[Reference],
    Field(max_length=1_000, description="The fleets that the rights are limited to, by name or id; null: all fleets."),
]
Subject = Annotated[
    str,
    Field(max_length=500, description="The account that may log in by OIDC, as `issuer#subject`."),
    AfterValidator(_check_subject),
]


class OperatorIn(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Name
    role: Role
    fleets: Fleets | None = None
    password: NewPassword | None = Field(
        default_factory=_unchanged,
        description="Never shown. null: the operator has no password. Left out: an existing password stays.",
    )
    oidc_subject: Subject | None = None
    disabled: bool = Field(False, description="Whether the operator and their API keys are locked out.")


class OperatorPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "viewer"}]})

    name: Name = Field(default_factory=absent)
    role: Role = Field(default_factory=absent)
    fleets: Fleets | None = Field(default_factory=absent)
    password: NewPassword | None = Field(default_factory=absent)
    oidc_subject: Subject | None = Field(default_factory=absent)
    disabled: bool = Field(default_factory=absent)
    has_totp: Literal[False] = Field(
        default_factory=absent, description="`false` removes the second factor, for an operator who lost it."
    )


class OperatorQuery(ListQuery):
    name: Pattern | None = None
    role: Role | None = None
    disabled: bool | None = None


class OperatorOut(ResponseModel):
    id: UUID
    name: str
    role: OperatorRole
    fleets: list[UUID] | None = Field(
        description="The ids of the fleets that the rights are limited to; null: all fleets."
    )
    has_password: bool
    has_totp: bool
    oidc_subject: str | None
    disabled: bool
    last_login_at: datetime | None
    created_at: datetime
