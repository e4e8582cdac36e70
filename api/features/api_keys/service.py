"""API keys: credentials of programs that act for an operator, with the operator's rights or fewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
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

_RIGHTS: Final = ("role", "fleet_ids", "scopes", "expires_at")


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
        _check_rights(work, fields)
        owner = work.caller.operator_id
        row = ApiKeyRow(operator_id=owner, digest=digest_of(secret), created_at=work.now, **fields)
        with clashes(_conflicts(body.name)):
            await operators.save(work.session, row)
        work.unit.audit(_audit_entry("created", row, [name for name, value in fields.items() if value is not None]))
        return row

    async def change(self, work: WriteContext, row: ApiKeyRow, fields: dict[str, Any]) -> None:
        """Update an API key.

        Raises Problem: 422 when its rights after the change exceed the caller's, 409 when it has expired or the name is taken.
        """
        if row.expires_at is not None and row.expires_at <= work.now:
            raise Problem(409, "api_key_expired", "the key has expired, for good", hint="create another key")
        stored = await _to_columns(work, fields)
        _check_rights(work, {name: getattr(row, name) for name in _RIGHTS} | stored)
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
    return stored


def _check_rights(work: WriteContext, key: Mapping[str, Any]) -> None:
    """Check that no right of a key exceeds those of the caller's credential. Raises Problem (422).

    `key` holds the columns of _RIGHTS as they are to be, changed or not: a caller with a weak key must not prolong a strong one.
    """
    caller = work.caller
    if lesser(OperatorRole(key["role"]), caller.role) != key["role"]:
        raise _exceeds_rights(
            "/role", f"the role {key['role']} exceeds your own", f"send {caller.role} or a lesser role", key["role"]
        )
    fleets = read_fleet_ids(key["fleet_ids"])
    if caller.fleets is not None and (fleets is None or not fleets <= caller.fleets):
        raise _exceeds_rights("/fleets", "your rights are limited to some fleets", "name these fleets, or some of them")
    if caller.scopes is not None and not set(key["scopes"] or ["*"]) <= caller.scopes:
        raise _exceeds_rights(
            "/scopes", "your own key has fewer scopes", f"send some of {', '.join(sorted(caller.scopes))}"
        )
    expires = key["expires_at"]
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
