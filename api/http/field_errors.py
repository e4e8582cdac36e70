"""Errors of single fields, and the form in which they repeat refused values."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TypeAlias

SHOWN_CHARS = 200
_SECRET_TEXT = re.compile(r"ep-(exit|gateway)-|-----BEGIN ")
"""The beginnings of join tokens and PEM. They are never repeated, whatever field holds them."""

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class FieldError:
    """An error of one field: a JSON pointer into the body, `?name` in the query or `{name}` in the path."""

    field: str
    message: str
    hint: str
    value: object = None


def show_value(value: object) -> Scalar:
    """Convert a refused value for an error: scalars only, cut to SHOWN_CHARS, and never a secret."""
    match value:
        case None | bool():
            return value
        case int() if abs(value) < 2**53:
            return value
        case float() if math.isfinite(value):
            return value
        case dict():
            return "{…}"
        case list():
            return "[…]"
    text = str(value)
    if _SECRET_TEXT.search(text):
        return None
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…"
