"""Roles of operators."""

from __future__ import annotations

from enum import StrEnum


class OperatorRole(StrEnum):
    """What an operator may do; each may what the next one may."""

    ADMIN = "admin"
    """Everything, operators and the audit included."""
    OPERATOR = "operator"
    """Change all that is declared."""
    VIEWER = "viewer"
    """Look."""
