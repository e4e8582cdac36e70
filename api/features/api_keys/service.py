"""API keys: credentials of programs that act for an operator, with the operator's rights or fewer."""

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
    table, request_model, patch_model, response_model, query_model = (
        ApiKeyRow,
        ApiKeyIn,
        ApiKeyPatch,
        ApiKeyOut,
        ApiKeyQuery,
    )
    has_name = in_fleets = has_fleet = False
    volatile = frozenset({"last_used_at", "key"})

    async def add(self, work: WriteContext, body: ApiKeyIn, secret: str) -> ApiKeyRow:
        """Create a key.

        Raises Problem: 422 when its rights exceed the caller's, 409 when the caller has a key of this name.
        """
        fields = await _to_columns(work, body.model_dump())
        owner = work.caller.operator_id
        row = ApiKeyRow(operator_id=owner, digest=digest_of(secret), created_at=work.now, **fields)
        with clashes(_conflicts(body.name)):
            await operators.save(work.session, row)
        work.unit.audit(_audit_entry("created", row, [name for name, value in fields.items() if value is not None]))
        return row

    async def change(self, work: WriteContext, row: ApiKeyRow, fields: dict[str, Any]) -> None:
        """Update an API key. Raises Problem: 422 when the rights exceed the caller's, 409 when the name is taken."""
        stored = await _to_columns(work, fields)
        with clashes(_conflicts(fields.get("name", ""))):
            changed = await operators.save_changes(work.session, row, stored)
        if changed:
            work.unit.audit(_audit_entry("changed", row, changed))

    async def remove(self, work: WriteContext, row: ApiKeyRow) -> None:
        await operators.remove_key(work.session, row)
        work.unit.audit(AuditEntry("deleted", self.kind, str(row.id)))

    async def show(self, look: ReadContext, rows: Sequence[ApiKeyRow]) -> list[ApiKeyOut]:  # noqa: ARG002 - the base class's
        return [_show(row) for row in rows]

    def visible(self, caller: Caller) -> list[ColumnElement[bool]]:
        """Limit callers to their own keys; admins of all fleets see every key."""
        return [] if caller.is_global_admin else [col(ApiKeyRow.operator_id) == caller.operator_id]


async def _to_columns(work: WriteContext, fields: Mapping[str, Any]) -> dict[str, Any]:
    stored = dict(fields)
    if "fleets" in stored:
        stored["fleet_ids"] = await resolve_fleets(work, stored.pop("fleets"))
    if stored.get("scopes") is not None:
        stored["scopes"] = sorted(set(stored["scopes"]))
    _check_rights(work, stored)
    return stored


def _check_rights(work: WriteContext, stored: Mapping[str, Any]) -> None:
    """Check that no right exceeds those of the caller's credential. Raises Problem (422)."""
    caller = work.caller
    if "role" in stored and lesser(OperatorRole(stored["role"]), caller.role) != stored["role"]:
        raise _exceeds_rights(
            "/role",
            f"the role {stored['role']} exceeds your own",
            f"send {caller.role} or a lesser role",
            stored["role"],
        )
    if "fleet_ids" in stored and caller.fleets is not None and stored["fleet_ids"] is None:
        raise _exceeds_rights("/fleets", "your rights are limited to some fleets", "name these fleets, or some of them")
    if "scopes" in stored and caller.scopes is not None and not set(stored["scopes"] or ["*"]) <= caller.scopes:
        raise _exceeds_rights(
            "/scopes", "your own key has fewer scopes", f"send some of {', '.join(sorted(caller.scopes))}"
        )
    if "expires_at" in stored:
        expires = stored["expires_at"]
        if expires is not None and expires <= work.now:
            raise _exceeds_rights("/expires_at", "this time has passed", "send a time in the future", expires)
        if caller.expires_at is not None and (expires is None or expires > caller.expires_at):
            hint = f"send {caller.expires_at.isoformat()} or earlier"
            raise _exceeds_rights("/expires_at", "your own key expires before that", hint, expires)


def _exceeds_rights(field: str, message: str, hint: str, value: object = None) -> Problem:
    return Problem(422, "exceeds_own_rights", message, errors=[FieldError(field, message, hint, value)])


def _conflicts(name: str) -> dict[str, Problem]:
    return {"uq_api_key_operator_id_name": duplicate("/name", name, "another key of this operator has this name")}


def _audit_entry(action: str, row: ApiKeyRow, fields: Sequence[str]) -> AuditEntry:
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
