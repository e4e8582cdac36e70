"""Fields that are secrets: a refusal does not repeat them, whatever is wrong with them."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator
from pydantic_core import InitErrorDetails, PydanticCustomError

from api.http.field_types import NAME_PATTERN

SHORTEST: Final = 12
LONGEST: Final = 256
"""Characters of a password."""


def _hide(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(value)
    except ValidationError as error:
        found = error.errors()[0]
        same = PydanticCustomError(found["type"], "{message}", {**found.get("ctx", {}), "message": found["msg"]})
        hidden: InitErrorDetails = {"type": same, "loc": (), "input": None}
        raise ValidationError.from_exception_data("secret", [hidden]) from None


def _said(description: str, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "writeOnly": True, "description": description, **more})


NewPassword = Annotated[
    str,
    Field(min_length=SHORTEST, max_length=LONGEST),
    WrapValidator(_hide),
    _said("Not the operator's name", format="password", minLength=SHORTEST, maxLength=LONGEST),
]
Password = Annotated[
    str, Field(max_length=LONGEST), WrapValidator(_hide), _said("The password", format="password", maxLength=LONGEST)
]
Code = Annotated[
    str,
    Field(pattern="^[0-9]{6}$"),
    WrapValidator(_hide),
    _said("What the second factor shows now", pattern="^[0-9]{6}$", examples=["123456"]),
]
Token = Annotated[str, Field(max_length=1_000), WrapValidator(_hide), _said("A token", maxLength=1_000)]
LoginName = Annotated[
    str,
    Field(max_length=200),
    WithJsonSchema({"type": "string", "maxLength": 200, "examples": ["ada"], "description": f"{NAME_PATTERN}"}),
]
