"""Plans: limits for users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.features.fleets import service as fleets
from api.features.plans.schemas import PlanIn, PlanOut, PlanPatch, PlanQuery
from api.http.problems import clashes, duplicate, in_use, unknown
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.repositories import declared
from model.tables import PlanRow


class PlanCollection(Collection[PlanRow, PlanIn, PlanOut]):
    name, kind = "plans", "plan"
    table, request_model, patch_model, response_model, query_model = PlanRow, PlanIn, PlanPatch, PlanOut, PlanQuery

    async def create(self, work: WriteContext, body: PlanIn) -> PlanRow:
        """Create a plan. Raises Problem: 422 for an unknown fleet, 409 when the name is taken."""
        fleet = await fleets.refer(work.session, body.fleet, caller=work.caller)
        row = PlanRow(fleet_id=fleet.id, created_at=work.now, **body.model_dump(exclude={"fleet"}))
        with clashes(
            {
                "uq_plan_fleet_id_name": duplicate("/name", body.name, "another plan of the fleet has this name"),
                "fk_plan_fleet_id_fleet": unknown("fleet", "/fleet", body.fleet),
            }
        ):
            return await declared.save(work.unit, row)

    async def change(self, work: WriteContext, row: PlanRow, fields: dict[str, Any]) -> None:
        """Update a plan. Raises Problem: 409 when the name is taken."""
        await self.reject_fleet_change(work, row, fields)
        taken = duplicate("/name", fields.get("name", ""), "another plan of the fleet has this name")
        with clashes({"uq_plan_fleet_id_name": taken}):
            await declared.save_changes(work.unit, row, fields)

    async def remove(self, work: WriteContext, row: PlanRow) -> None:
        """Delete a plan. Raises Problem: 409 while users have this plan."""
        hint = "give these users another plan first: GET /api/v1/users"
        with clashes({"fk_user_account_plan_id_plan": in_use("plan", row.name, "users have this plan", hint)}):
            await declared.remove(work.unit, row)

    async def show(self, look: ReadContext, rows: Sequence[PlanRow]) -> list[PlanOut]:
        owners = await declared.fleet_names(look.session, {row.fleet_id for row in rows})
        return [PlanOut.of(row, fleet=owners[row.fleet_id]) for row in rows]


PLANS = PlanCollection()
