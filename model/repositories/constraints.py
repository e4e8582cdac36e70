"""The name of the constraint that a write violated."""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError


def violated(error: IntegrityError) -> str | None:
    """Return the constraint's name; None when the driver does not report it."""
    cause = error.orig and error.orig.__cause__
    return getattr(cause, "constraint_name", None)
