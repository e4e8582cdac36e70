"""What is wrong with a field of a request, and what of its value is repeated."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TypeAlias

SHOWN_CHARS = 200
_SECRET_TEXT = re.compile(r"ep-(exit|gateway)-|-----BEGIN ")
"""How join tokens and PEM begin: they are not repeated even when they stand in another field."""

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong: `field` is a JSON pointer into the body, `?name` of the query or `{name}` of the path."""

    field: str
    message: str
    hint: str
    value: object = None


def shown(value: object) -> Scalar:
    """What of a refused value is repeated: scalars, cut to a readable length and never a secret."""
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
