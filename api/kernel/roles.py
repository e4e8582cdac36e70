"""Roles of operators."""

from __future__ import annotations

from enum import StrEnum


class OperatorRole(StrEnum):
    """The roles of operators. Each role includes the permissions of the next one."""

    ADMIN = "admin"
    """May do everything, also manage operators and read the audit."""
    OPERATOR = "operator"
    """May change the declared state."""
    VIEWER = "viewer"
    """May read."""
