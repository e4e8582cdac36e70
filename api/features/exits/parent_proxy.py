"""Parent proxies of exits, as the API takes, shows and keeps them. A password goes in and never comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.features.exits.schemas import ParentOut
from api.http.field_errors import FieldError
from api.http.problems import Problem
from model.tables import ExitRow


def show_parent(row: Any) -> ParentOut | None:
    """The parent of an exit, without its password."""
    if row.parent_address is None:
        return None
    return ParentOut(address=row.parent_address, port=row.parent_port, username=row.parent_username)


def parent_columns(parent: Mapping[str, Any] | None, row: ExitRow | None = None) -> dict[str, Any]:
    """The columns of what was sent as `parent`, for a new exit or for one that has another one by now.

    Raises Problem (422) when the password is missing: one that is known is shown to no other proxy than before.
    """
    if parent is None:
        return dict.fromkeys(("parent_address", "parent_port", "parent_username", "parent_password"))
    parent = {"username": None, "password": None, **parent}
    columns = {f"parent_{name}": value for name, value in parent.items()}
    if parent["username"] is None or parent["password"] is not None:
        return columns
    stays = ("parent_address", "parent_port", "parent_username")
    if row is None or any(getattr(row, name) != columns[name] for name in stays):
        message, hint = "the parent's password is missing", "send it; what is shown or exported does not hold it"
        raise Problem(422, "no_password", message, errors=[FieldError("/parent/password", message, hint)])
    return columns | {"parent_password": row.parent_password}
