"""The errors that the client raises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.http.field_errors import FieldError
from model.errors import ExitplaneError


class ApiUnreachable(ExitplaneError):
    """Nothing answered at the URL, or no Exitplane that this version understands."""

    code = "api_unreachable"


class ApiRefused(ExitplaneError):
    """A refusal by the API, with its `status`, `code`, `message` and `hint`; `errors` name the wrong fields."""

    def __init__(
        self, status: int, code: str, message: str, *, hint: str = "", errors: Sequence[FieldError] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code
        self.errors = tuple(errors)

    @classmethod
    def of(cls, status: int, problem: Any) -> ApiRefused | None:
        """Build the error from a `problem+json` body; None for another body."""
        try:
            errors = [
                FieldError(each["field"], each["message"], each["hint"], each["value"]) for each in problem["errors"]
            ]
            return cls(status, problem["code"], problem["detail"], hint=problem["hint"], errors=errors)
        except (KeyError, TypeError):
            return None

    def __str__(self) -> str:
        text = "; ".join(describe(error) for error in self.errors) or self.message
        return f"{text}; {self.hint}" if self.hint else text


def describe(error: FieldError) -> str:
    """Format one field error without its hint: `/pools/3/country: this is not a country code (it is "zz")`."""
    # a parameter of the path, such as {pool}, is not a field that the caller knows
    field = "" if error.field.startswith("{") else f"{error.field}: "
    value = "" if error.value is None else f' (it is "{error.value}")'
    return f"{field}{error.message}{value}"
