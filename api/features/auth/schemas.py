"""Requests and responses of /auth."""

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
    totp: Code | None = Field(None, description="The current code of the second factor. Required once one is enabled.")


class RefreshIn(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"refresh_token": "ep-refresh-…"}]})

    refresh_token: Token


class TokensOut(ResponseModel):
    access_token: str = Field(description="Send it in the header `Authorization: Bearer …`.")
    token_type: str = "Bearer"  # noqa: S105 - RFC 6749's word
    expires_in: int = Field(description="Lifetime of the access token in seconds.")
    refresh_token: str = Field(
        description="Can be exchanged once for a new pair of tokens. Using it twice ends the session."
    )


class CallerApiKeyOut(ResponseModel):
    id: UUID
    name: str
    scopes: list[str] | None = Field(
        description="Scopes such as `exits:read` and `exits:write`; null: everything that the role may do."
    )
    expires_at: datetime | None


class MeOut(ResponseModel):
    """The caller, and the rights of this credential."""

    id: UUID
    name: str
    role: OperatorRole
    fleets: list[UUID] | None = Field(description="The ids of the fleets that the caller may see; null: all fleets.")
    has_password: bool
    has_totp: bool = Field(description="Whether a login needs a code of a second factor.")
    api_key: CallerApiKeyOut | None = Field(
        description="The API key that authenticated this request; null: an access token did."
    )


class PasswordIn(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"old": _PASSWORD, "new": "staple battery horse"}]})

    old: Password
    new: NewPassword


class TotpOut(ResponseModel):
    secret: str = Field(description="The secret in base32. It is shown only once.")
    uri: str = Field(description="The secret as an `otpauth://` URI, to show as a QR code.")


class TotpIn(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "123456"}]})

    code: Code


class TotpRemovalIn(RequestModel):
    """The password or a current code; one of them is required."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"password": _PASSWORD}]})

    password: Password | None = None
    code: Code | None = None

    @model_validator(mode="before")
    @classmethod
    def _check(cls, sent: Any) -> Any:
        if isinstance(sent, dict) and not (sent.get("password") or sent.get("code")):
            raise bad_value("missing_credential", "neither password nor code was sent", "send one of them")
        return sent
