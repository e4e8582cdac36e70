"""Users whose traffic gateways carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement
from sqlmodel import col

from api.features.fleets import service as fleets
from api.features.users.schemas import UserIn, UserOut, UserPatch, UserQuery, UserSecretOut
from api.http.problems import Problem, clashes, duplicate, unknown
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.repositories import declared
from model.tables import PlanRow, UserRow
from model.user_secrets import generate_secret, next_slot, store_secret

SECRETS_MAX: Final = 2
"""Two, so that a secret can be replaced while clients still use the old one."""


class UserCollection(Collection[UserRow, UserIn, UserOut]):
    name, kind = "users", "user"
    table, request_model, patch_model, response_model, query_model = UserRow, UserIn, UserPatch, UserOut, UserQuery

    def filters(self, query: UserQuery) -> list[ColumnElement[bool]]:
        found = []
        if query.group is not None:
            found.append(col(UserRow.group) == query.group)
        if query.plan is not None:
            found.append(col(UserRow.plan_id).in_(declared.ids_of(PlanRow, query.plan)))
        return found

    async def create(self, work: WriteContext, body: UserIn) -> UserRow:
        """Create a user. Raises Problem: 422 for an unknown fleet or plan, 409 when the name is taken."""
        fleet = await fleets.refer(work.session, body.fleet, caller=work.caller)
        plan_id = await _plan(work, fleet.id, body.plan)
        row = UserRow(
            fleet_id=fleet.id,
            name=body.name,
            group=body.group,
            plan_id=plan_id,
            enabled=body.enabled,
            expires_at=body.expires_at,
            created_at=work.now,
        )
        missing_fleet = {"fk_user_account_fleet_id_fleet": unknown("fleet", "/fleet", body.fleet)}
        with clashes(_conflicts(body.name, body.plan) | missing_fleet):
            return await declared.save(work.unit, row)

    async def change(self, work: WriteContext, row: UserRow, fields: dict[str, Any]) -> None:
        """Update a user. Raises Problem: 422 for an unknown plan, 409 when the name is taken."""
        await self.reject_fleet_change(work, row, fields)
        plan = fields.get("plan")
        if "plan" in fields:
            fields["plan_id"] = await _plan(work, row.fleet_id, fields.pop("plan"))
        with clashes(_conflicts(fields.get("name", ""), plan)):
            await declared.save_changes(work.unit, row, fields)

    async def remove(self, work: WriteContext, row: UserRow) -> None:
        await declared.remove(work.unit, row)

    async def add_secret(self, work: WriteContext, row: UserRow) -> tuple[UserSecretOut, str]:
        """Give a user a new secret, and return it as it is shown, and itself. Raises Problem (409) if the user has two."""
        if len(row.secrets) >= SECRETS_MAX:
            hint = f"revoke one first: DELETE /api/v1/users/{row.id}/secrets/{row.secrets[0]['slot']} is the older one"
            raise Problem(409, "too_many_secrets", f"the user has {SECRETS_MAX} secrets already", hint=hint)
        used = [each["slot"] for each in row.secrets]
        secret = generate_secret(next_slot(used[-1] if used else None, used))
        stored = store_secret(secret)
        entry = {"slot": stored.slot, "digest": stored.digest, "created_at": work.now.isoformat()}
        await declared.save_changes(work.unit, row, {"secrets": [*row.secrets, entry]})
        return _show_secret(entry), secret

    async def revoke_secret(self, work: WriteContext, row: UserRow, slot: str) -> None:
        """Revoke a secret. Raises Problem (404) if the user has none of this id."""
        left = [each for each in row.secrets if each["slot"] != slot]
        if len(left) == len(row.secrets):
            raise Problem(
                404, "not_found", f"the user has no secret {slot}", hint="GET the user: it lists the valid ones"
            )
        await declared.save_changes(work.unit, row, {"secrets": left})

    async def show(self, look: ReadContext, rows: Sequence[UserRow]) -> list[UserOut]:
        owners = await declared.fleet_names(look.session, {row.fleet_id for row in rows})
        plans = await declared.names_of(look.session, PlanRow, {row.plan_id for row in rows if row.plan_id})
        return [
            UserOut.of(
                row,
                fleet=owners[row.fleet_id],
                plan=plans[row.plan_id] if row.plan_id else None,
                secrets=[_show_secret(each) for each in row.secrets],
            )
            for row in rows
        ]


USERS = UserCollection()


def _show_secret(entry: Mapping[str, str]) -> UserSecretOut:
    return UserSecretOut(id=entry["slot"], created_at=datetime.fromisoformat(entry["created_at"]))


async def _plan(work: WriteContext, fleet_id: UUID, ref: str | None) -> UUID | None:
    if ref is None:
        return None
    found = await declared.find_named(work.session, PlanRow, fleet_id, ref)
    if found is None:
        raise unknown("plan", "/plan", ref, "the fleet has no such plan")
    return found.id


def _conflicts(name: str, plan: str | None) -> dict[str, Any]:
    return {
        "uq_user_account_fleet_id_name": duplicate("/name", name, "another user of the fleet has this name"),
        "fk_user_account_plan_id_plan": unknown("plan", "/plan", plan or ""),
    }
