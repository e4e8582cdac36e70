"""Validation errors: those that validators raise, and their conversion to field errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import PydanticCustomError

from api.http.field_errors import SHOWN_CHARS, FieldError

_ERRORS_MAX = 20
_SECRET_FIELDS = frozenset({"join_token", "csr", "password"})
_HINTS = {
    "missing": "add it",
    "extra_forbidden": "remove it; /docs lists the fields",
    "string_type": "send a string",
    "string_unicode": "send valid Unicode",
    "int_type": "send a whole number",
    "int_parsing_size": "send a smaller number",
    "bool_type": "send true or false",
    "greater_than_equal": "send at least {ge}",
    "less_than_equal": "send at most {le}",
    "string_too_long": "send at most {max_length} characters",
    "string_too_short": "send at least {min_length} characters",
    "literal_error": "send one of {expected}",
    "model_attributes_type": "send an object",
    "model_type": "send an object",
    "dict_type": "send an object",
}
_MESSAGES = {"missing": "this is required", "extra_forbidden": "there is no such field"}


def bad_value(code: str, message: str, hint: str) -> PydanticCustomError:
    """Make the error that a schema's validator raises."""
    return PydanticCustomError(code, "{message}", {"message": message, "hint": hint})


def field_errors(errors: Iterable[Mapping[str, Any]]) -> list[FieldError]:
    """Convert pydantic's errors, at most 20. Each `loc` begins with `body`, `query` or `path`."""
    return [_field_error(error) for error, _ in zip(errors, range(_ERRORS_MAX), strict=False)]


def _field_error(error: Mapping[str, Any]) -> FieldError:
    kind, context, location = error["type"], error.get("ctx") or {}, error["loc"]
    template = context.get("hint") or _HINTS.get(kind, "see /docs for the valid values")
    hidden = kind == "missing" or not _SECRET_FIELDS.isdisjoint(map(str, location))
    return FieldError(
        field=_pointer(location),
        message=_MESSAGES.get(kind, error["msg"]),
        hint=template if "hint" in context else template.format_map(context),
        value=None if hidden else error["input"],
    )


def _pointer(location: Sequence[str | int]) -> str:
    where, *path = location
    parts = [str(part)[:SHOWN_CHARS] for part in path]
    if where == "query":
        return "?" + ".".join(parts)
    if where == "path":
        return "{" + ".".join(parts) + "}"
    # RFC 6901, section 3
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
