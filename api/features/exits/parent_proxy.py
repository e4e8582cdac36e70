"""Parent proxies of exits: conversion between API and columns. A password is stored and never shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.features.exits.schemas import ParentOut
from api.http.field_errors import FieldError
from api.http.problems import Problem
from model.tables import ExitRow
from xds.translate.forbidden_targets import is_on_exit


def show_parent(row: Any) -> ParentOut | None:
    """Return the parent of an exit, without its password."""
    if row.parent_address is None:
        return None
    return ParentOut(address=row.parent_address, port=row.parent_port, username=row.parent_username)


def check_place(parent: Mapping[str, Any] | None, row: ExitRow | None = None) -> None:
    """Refuse an operator's parent on the exit's own host or link, unless it is the one that `row` has already.

    Only the exit's agent decides about its host, so it may enrol such a parent. Raises Problem (422).
    """
    if parent is None or not is_on_exit(parent["address"]):
        return
    if row is not None and (row.parent_address, row.parent_port) == (parent["address"], parent["port"]):
        return
    message = "a parent on the exit's own host or link is up to the exit's agent"
    hint = "start the agent with --parent, or set EXITPLANE_LOCAL_PARENTS for the control plane"
    raise Problem(
        422, "parent_on_exit", message, errors=[FieldError("/parent/address", message, hint, parent["address"])]
    )


def parent_columns(parent: Mapping[str, Any] | None, row: ExitRow | None = None) -> dict[str, Any]:
    """Convert `parent` to columns, for a new exit or for an existing `row`.

    Raises Problem (422) when the password is missing: a stored password is never sent to another proxy or user name.
    """
    if parent is None:
        return dict.fromkeys(("parent_address", "parent_port", "parent_username", "parent_password"))
    parent = {"username": None, "password": None, **parent}
    columns = {f"parent_{name}": value for name, value in parent.items()}
    if parent["username"] is None or parent["password"] is not None:
        return columns
    identity = ("parent_address", "parent_port", "parent_username")
    if row is None or any(getattr(row, name) != columns[name] for name in identity):
        message, hint = "the parent's password is missing", "send it; replies and exports do not contain it"
        raise Problem(422, "no_password", message, errors=[FieldError("/parent/password", message, hint)])
    return columns | {"parent_password": row.parent_password}
