"""API keys: the right of a program to act for an operator, with the operator's rights or less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement
from sqlmodel import col

from api.features.api_keys.schemas import ApiKeyIn, ApiKeyOut, ApiKeyPatch, ApiKeyQuery
from api.features.operators.service import resolve_fleets
from api.http.field_errors import FieldError
from api.http.problems import Problem, clashes, duplicate
from api.kernel.caller import Caller, lesser
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.roles import OperatorRole
from api.kernel.writes import WriteContext
from api.runtime.tokens import digest_of
from model.audit_log import AuditEntry
from model.repositories import operators
from model.repositories.operators import read_fleet_ids
from model.tables import ApiKeyRow


class ApiKeyCollection(Collection[ApiKeyRow, ApiKeyIn, ApiKeyOut]):
    name, kind = "api-keys", "api-key"
    table, wish, patch, view, query = ApiKeyRow, ApiKeyIn, ApiKeyPatch, ApiKeyOut, ApiKeyQuery
    has_name = in_fleets = has_fleet = False
    volatile = frozenset({"last_used_at", "key"})

    async def add(self, work: WriteContext, wish: ApiKeyIn, secret: str) -> ApiKeyRow:
        """Raises Problem: 422 for what goes beyond the caller's rights, 409 when they have a key of this name."""
        fields = await _stored(work, wish.model_dump())
        owner = work.caller.operator_id
        row = ApiKeyRow(operator_id=owner, digest=digest_of(secret), created_at=work.now, **fields)
        with clashes(_taken(wish.name)):
            await operators.save(work.session, row)
        work.unit.audit(_entry("created", row, [name for name, value in fields.items() if value is not None]))
        return row

    async def change(self, work: WriteContext, row: ApiKeyRow, fields: dict[str, Any]) -> None:
        """Raises Problem: 422 and 409 likewise."""
        stored = await _stored(work, fields)
        with clashes(_taken(fields.get("name", ""))):
            changed = await operators.save_changes(work.session, row, stored)
        if changed:
            work.unit.audit(_entry("changed", row, changed))

    async def remove(self, work: WriteContext, row: ApiKeyRow) -> None:
        await operators.remove_key(work.session, row)
        work.unit.audit(AuditEntry("deleted", self.kind, str(row.id)))

    async def show(self, look: ReadContext, rows: Sequence[ApiKeyRow]) -> list[ApiKeyOut]:  # noqa: ARG002 - the base class's
        return [_show(row) for row in rows]

    def visible(self, caller: Caller) -> list[ColumnElement[bool]]:
        """One's own; admins of all fleets see everybody's."""
        return [] if caller.is_global_admin else [col(ApiKeyRow.operator_id) == caller.operator_id]


async def _stored(work: WriteContext, fields: Mapping[str, Any]) -> dict[str, Any]:
    stored = dict(fields)
    if "fleets" in stored:
        stored["fleet_ids"] = await resolve_fleets(work, stored.pop("fleets"))
    if stored.get("scopes") is not None:
        stored["scopes"] = sorted(set(stored["scopes"]))
    _refuse_more(work, stored)
    return stored


def _refuse_more(work: WriteContext, stored: Mapping[str, Any]) -> None:
    """Raises Problem (422) for what is more than the caller may, who may be using a lesser key."""
    caller = work.caller
    if "role" in stored and lesser(OperatorRole(stored["role"]), caller.role) != stored["role"]:
        raise _beyond("/role", "this is more than your own role", f"send {caller.role} or less", stored["role"])
    if "fleet_ids" in stored and caller.fleets is not None and stored["fleet_ids"] is None:
        raise _beyond("/fleets", "you are for some fleets only", "name them, or some of them")
    if "scopes" in stored and caller.scopes is not None and not set(stored["scopes"] or ["*"]) <= caller.scopes:
        raise _beyond("/scopes", "your own key has less scopes", f"send some of {', '.join(sorted(caller.scopes))}")
    if "expires_at" in stored:
        expires = stored["expires_at"]
        if expires is not None and expires <= work.now:
            raise _beyond("/expires_at", "this is over", "send a time in the future", expires)
        if caller.expires_at is not None and (expires is None or expires > caller.expires_at):
            hint = f"send {caller.expires_at.isoformat()} or earlier"
            raise _beyond("/expires_at", "your own key expires before that", hint, expires)


def _beyond(field: str, message: str, hint: str, value: object = None) -> Problem:
    return Problem(422, "beyond_own", message, errors=[FieldError(field, message, hint, value)])


def _taken(name: str) -> dict[str, Problem]:
    return {"uq_api_key_operator_id_name": duplicate("/name", name, "another key of this operator has this name")}


def _entry(action: str, row: ApiKeyRow, fields: Sequence[str]) -> AuditEntry:
    return AuditEntry(action, "api-key", str(row.id), detail={"fields": sorted(fields)})


def _show(row: ApiKeyRow) -> ApiKeyOut:
    fleets = read_fleet_ids(row.fleet_ids)
    return ApiKeyOut(
        id=row.id,
        name=row.name,
        operator_id=row.operator_id,
        role=OperatorRole(row.role),
        fleets=None if fleets is None else sorted(fleets, key=UUID.__str__),
        scopes=row.scopes,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        created_at=row.created_at,
    )


API_KEYS = ApiKeyCollection()
