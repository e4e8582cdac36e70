"""Why the API did not do what it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.http.field_errors import FieldError
from model.errors import ExitplaneError


class ApiUnreachable(ExitplaneError):
    """Nobody answered, or nobody who is an Exitplane that this version understands."""

    code = "api_unreachable"


class ApiRefused(ExitplaneError):
    """The API said no: `code`, `message` and `hint` are its own, and `errors` say which field is wrong."""

    def __init__(
        self, status: int, code: str, message: str, *, hint: str = "", errors: Sequence[FieldError] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code
        self.errors = tuple(errors)

    @classmethod
    def of(cls, status: int, problem: Any) -> ApiRefused | None:
        """What a `problem+json` says; None when it is none."""
        try:
            errors = [
                FieldError(each["field"], each["message"], each["hint"], each["value"]) for each in problem["errors"]
            ]
            return cls(status, problem["code"], problem["detail"], hint=problem["hint"], errors=errors)
        except (KeyError, TypeError):
            return None

    def __str__(self) -> str:
        told = "; ".join(describe(error) for error in self.errors) or self.message
        return f"{told}; {self.hint}" if self.hint else told


def describe(error: FieldError) -> str:
    """One thing wrong, without its hint: `/pools/3/country: this is not a country code (it is "zz")`."""
    # {pool} stands for what the caller named in the path
    field = "" if error.field.startswith("{") else f"{error.field}: "
    value = "" if error.value is None else f' (it is "{error.value}")'
    return f"{field}{error.message}{value}"
