"""Operators: the people and programs that administer. Writes here are not configuration and make no revision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.features.auth import second_factor
from api.features.operators.schemas import UNCHANGED, OperatorIn, OperatorOut, OperatorPatch, OperatorQuery
from api.http.problems import Problem, clashes, duplicate, unknown
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.roles import OperatorRole
from api.kernel.writes import WriteContext
from api.runtime.passwords import refuse_weak
from model.audit_log import AuditEntry
from model.repositories import declared, logins, operators
from model.repositories.operators import read_fleet_ids
from model.tables import OperatorRow


class OperatorCollection(Collection[OperatorRow, OperatorIn, OperatorOut]):
    name, kind = "operators", "operator"
    table, request_model, patch_model, response_model, query_model = (
        OperatorRow,
        OperatorIn,
        OperatorPatch,
        OperatorOut,
        OperatorQuery,
    )
    in_fleets = has_fleet = False
    volatile = frozenset({"last_login_at"})

    async def create(self, work: WriteContext, body: OperatorIn) -> OperatorRow:
        """Create an operator.

        Raises Problem: 422 for an unknown fleet or a weak password, 409 when the name or the account is taken.
        """
        fields = await _to_columns(work, body.model_dump(), body.name)
        row = OperatorRow(created_at=work.now, **fields)
        with clashes(_conflicts(fields)):
            await operators.save(work.session, row)
        _audit(work, "created", row, [name for name, value in fields.items() if value not in (None, False)])
        return row

    async def change(self, work: WriteContext, row: OperatorRow, fields: dict[str, Any]) -> None:
        """Update an operator.

        Raises Problem: 422 and 409 as `create` does, and 409 when no enabled admin of all fleets would be left.
        """
        stored = await _to_columns(work, fields, fields.get("name", row.name))
        with clashes(_conflicts(stored)):
            changed = await operators.save_changes(work.session, row, stored)
        await _demand_an_admin(work.session)
        if "password_hash" in changed or row.disabled:
            await logins.end_sessions(work.session, row.id)
        if changed:
            _audit(work, "changed", row, changed)

    async def remove(self, work: WriteContext, row: OperatorRow) -> None:
        """Delete an operator. Raises Problem (409) for the last enabled admin of all fleets."""
        await operators.remove(work.session, row)
        await _demand_an_admin(work.session)
        work.unit.audit(AuditEntry("deleted", self.kind, str(row.id)))

    async def lock(self, work: WriteContext, ref: str, fleet: str | None = None) -> OperatorRow:
        """Lock an operator. Writers take turns, so that two admins cannot remove each other at once."""
        await operators.lock_admins(work.session)
        return await super().lock(work, ref, fleet)

    async def show(self, look: ReadContext, rows: Sequence[OperatorRow]) -> list[OperatorOut]:  # noqa: ARG002 - the base class's
        return [_show(row) for row in rows]


async def _to_columns(work: WriteContext, fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Convert the sent fields to columns. Raises Problem (422)."""
    stored = dict(fields)
    if "fleets" in stored:
        stored["fleet_ids"] = await resolve_fleets(work, stored.pop("fleets"))
    if stored.pop("has_totp", None) is False:
        stored |= {"totp_secret": None, "totp_step": None}
    password = stored.pop("password", UNCHANGED)
    if password is None:
        stored["password_hash"] = None
    elif password != UNCHANGED:
        refuse_weak(password, name)
        stored["password_hash"] = await work.password_hasher.hash(password)
    return stored


async def resolve_fleets(work: WriteContext, refs: Iterable[str] | None) -> list[str] | None:
    """Return the sorted ids of the fleets that a body names.

    Raises Problem (422) for one that the caller may not see.
    """
    if refs is None:
        return None
    found = set()
    for index, ref in enumerate(refs):
        fleet = await declared.find_fleet(work.session, ref)
        if fleet is None or not work.caller.sees(fleet.id):
            raise unknown("fleet", f"/fleets/{index}", ref)
        found.add(str(fleet.id))
    return sorted(found)


async def _demand_an_admin(session: AsyncSession) -> None:
    if not await operators.count_admins(session):
        message = "this is the last enabled admin of all fleets"
        raise Problem(409, "last_admin", message, hint="create another admin first: POST /api/v1/operators")


def _conflicts(fields: Mapping[str, Any]) -> dict[str, Problem]:
    subject = fields.get("oidc_subject") or ""
    return {
        "uq_operator_name": duplicate("/name", fields.get("name", ""), "another operator has this name"),
        "uq_operator_oidc_subject": duplicate("/oidc_subject", subject, "another operator has this account"),
    }


def _audit(work: WriteContext, action: str, row: OperatorRow, fields: Iterable[str]) -> None:
    """Audit the names of the changed fields only: their values are personal data."""
    work.unit.audit(AuditEntry(action, "operator", str(row.id), detail={"fields": sorted(fields)}))


def _show(row: OperatorRow) -> OperatorOut:
    fleets = read_fleet_ids(row.fleet_ids)
    return OperatorOut(
        id=row.id,
        name=row.name,
        role=OperatorRole(row.role),
        fleets=None if fleets is None else sorted(fleets, key=UUID.__str__),
        has_password=row.password_hash is not None,
        has_totp=second_factor.is_enabled(row),
        oidc_subject=row.oidc_subject,
        disabled=row.disabled,
        last_login_at=row.last_login_at,
        created_at=row.created_at,
    )


OPERATORS = OperatorCollection()
