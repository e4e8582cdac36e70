"""Types of secret fields, whose values no error repeats."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator
from pydantic_core import InitErrorDetails, PydanticCustomError

from api.http.field_types import NAME_PATTERN

PASSWORD_CHARS_MIN: Final = 12
PASSWORD_CHARS_MAX: Final = 256


def _hide(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(value)
    except ValidationError as error:
        found = error.errors()[0]
        same = PydanticCustomError(found["type"], "{message}", {**found.get("ctx", {}), "message": found["msg"]})
        hidden: InitErrorDetails = {"type": same, "loc": (), "input": None}
        raise ValidationError.from_exception_data("secret", [hidden]) from None


def _describe(description: str, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "writeOnly": True, "description": description, **more})


NewPassword = Annotated[
    str,
    Field(min_length=PASSWORD_CHARS_MIN, max_length=PASSWORD_CHARS_MAX),
    WrapValidator(_hide),
    _describe(
        "A password other than the operator's name",
        format="password",
        minLength=PASSWORD_CHARS_MIN,
        maxLength=PASSWORD_CHARS_MAX,
    ),
]
Password = Annotated[
    str,
    Field(max_length=PASSWORD_CHARS_MAX),
    WrapValidator(_hide),
    _describe("The password", format="password", maxLength=PASSWORD_CHARS_MAX),
]
Code = Annotated[
    str,
    Field(pattern="^[0-9]{6}$"),
    WrapValidator(_hide),
    _describe("The current code of the second factor", pattern="^[0-9]{6}$", examples=["123456"]),
]
Token = Annotated[str, Field(max_length=1_000), WrapValidator(_hide), _describe("A token", maxLength=1_000)]
LoginName = Annotated[
    str,
    Field(max_length=200),
    WithJsonSchema({"type": "string", "maxLength": 200, "examples": ["ada"], "description": f"{NAME_PATTERN}"}),
]
SECRET_URL_CHARS_MAX: Final = 2_000
SecretUrl = Annotated[
    str,
    Field(min_length=1, max_length=SECRET_URL_CHARS_MAX),
    WrapValidator(_hide),
    _describe("A URL that holds secrets. Never shown", minLength=1, maxLength=SECRET_URL_CHARS_MAX),
]
SigningKey = Annotated[
    str,
    Field(min_length=16, max_length=256, pattern="^[!-~]+$"),
    WrapValidator(_hide),
    _describe(
        "The key that signs, of visible ASCII characters. Never shown", minLength=16, maxLength=256, pattern="^[!-~]+$"
    ),
]
