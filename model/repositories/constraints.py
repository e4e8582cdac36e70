"""Which constraint a write violated."""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError


def violated(error: IntegrityError) -> str | None:
    """The constraint's name; None when the driver does not say."""
    cause = error.orig and error.orig.__cause__
    return getattr(cause, "constraint_name", None)
