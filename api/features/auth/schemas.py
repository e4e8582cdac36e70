"""Logins as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from api.http.field_types import RequestModel, ResponseModel
from api.http.secret_fields import Code, LoginName, NewPassword, Password, Token
from api.http.validators import bad_value
from api.kernel.roles import OperatorRole

_PASSWORD = "correct horse battery"  # noqa: S105 - an example


class LoginIn(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "ada", "password": _PASSWORD}]})

    name: LoginName
    password: Password
    totp: Code | None = Field(None, description="Once a second factor was set up: what it shows.")


class RefreshIn(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"refresh_token": "ep-refresh-…"}]})

    refresh_token: Token


class TokensOut(ResponseModel):
    access_token: str = Field(description="For the header `Authorization: Bearer`.")
    token_type: str = "Bearer"  # noqa: S105 - RFC 6749's word
    expires_in: int = Field(description="In seconds.")
    refresh_token: str = Field(description="Good for one new pair of tokens. Using it twice ends the session.")


class KeyOfCaller(ResponseModel):
    id: UUID
    name: str
    scopes: list[str] | None = Field(
        description="`collection:read` and `collection:write`; null: all that the role may."
    )
    expires_at: datetime | None


class MeOut(ResponseModel):
    """Who calls, and what they may with this credential."""

    id: UUID
    name: str
    role: OperatorRole
    fleets: list[UUID] | None = Field(description="The ids of the fleets that there are for the caller; null: all.")
    has_password: bool
    has_totp: bool = Field(description="Whether a login takes a code of a second factor.")
    api_key: KeyOfCaller | None = Field(description="The API key that the request came with.")


class PasswordIn(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"old": _PASSWORD, "new": "staple battery horse"}]})

    old: Password
    new: NewPassword


class TotpOut(ResponseModel):
    secret: str = Field(description="In base32. Shown this once.")
    uri: str = Field(description="The same as `otpauth://`, to show as a QR code.")


class TotpIn(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "123456"}]})

    code: Code


class TotpRemovalIn(RequestModel):
    """The password, or a code."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"password": _PASSWORD}]})

    password: Password | None = None
    code: Code | None = None

    @model_validator(mode="before")
    @classmethod
    def _check(cls, sent: Any) -> Any:
        if isinstance(sent, dict) and not (sent.get("password") or sent.get("code")):
            raise bad_value("missing_proof", "this takes the password or a code", "send one of them")
        return sent
