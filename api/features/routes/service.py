"""Routes: rules that send, allow or refuse requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlmodel import col

from api.features.fleets import service as fleets
from api.features.pools import service as pools
from api.features.routes.schemas import ActionIn, MatchIn, RouteIn, RouteOut, RoutePatch, RouteQuery
from api.features.routes.summary import sentence
from api.http.field_errors import FieldError
from api.http.problems import Problem, clashes, duplicate, unknown
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.repositories import declared
from model.stored_routes import pools_of
from model.tables import PoolRow, RoutePoolRow, RouteRow


class RouteCollection(Collection[RouteRow, RouteIn, RouteOut]):
    name, kind = "routes", "route"
    table, request_model, patch_model, response_model, query_model = RouteRow, RouteIn, RoutePatch, RouteOut, RouteQuery
    volatile = frozenset({"explanation"})
    sort = "position"

    def sortable(self) -> Mapping[str, Any]:
        return {**super().sortable(), "position": col(RouteRow.position)}

    def filters(self, query: RouteQuery) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        if query.enabled is not None:
            found.append(col(RouteRow.enabled).is_(query.enabled))
        if query.pool is not None:
            leading = select(col(RoutePoolRow.route_id)).where(
                col(RoutePoolRow.pool_id).in_(declared.ids_of(PoolRow, query.pool))
            )
            found.append(col(RouteRow.id).in_(leading))
        return found

    async def create(self, work: WriteContext, body: RouteIn) -> RouteRow:
        """Create a route. Raises Problem: 422 for an unknown fleet or pool, 409 when the name is taken."""
        fleet = await fleets.refer(work.session, body.fleet, caller=work.caller)
        action = await _stored_action(work, fleet.id, body.action)
        row = RouteRow(
            fleet_id=fleet.id,
            name=body.name,
            position=body.position,
            enabled=body.enabled,
            match=_stored_match(body.match),
            action=action,
            created_at=work.now,
        )
        with clashes(_conflicts(body.name) | {"fk_route_fleet_id_fleet": unknown("fleet", "/fleet", body.fleet)}):
            await declared.save(work.unit, row)
            await declared.set_pools_of_route(work.session, row.id, pools_of(action))
        return row

    async def change(self, work: WriteContext, row: RouteRow, fields: dict[str, Any]) -> None:
        """Update a route. Raises Problem: 422 for an unknown pool, 409 when the name is taken."""
        await self.reject_fleet_change(work, row, fields)
        if "match" in fields:
            fields["match"] = _stored_match(MatchIn.model_validate(fields["match"], by_name=True))
        if "action" in fields:
            action = ActionIn.model_validate(fields["action"])
            fields["action"] = await _stored_action(work, row.fleet_id, action)
        with clashes(_conflicts(fields.get("name", ""))):
            await declared.save_changes(work.unit, row, fields)
            if "action" in fields:
                await declared.set_pools_of_route(work.session, row.id, pools_of(row.action))

    async def remove(self, work: WriteContext, row: RouteRow) -> None:
        await declared.remove(work.unit, row)

    async def show(self, look: ReadContext, rows: Sequence[RouteRow]) -> list[RouteOut]:
        owners = await declared.fleet_names(look.session, {row.fleet_id for row in rows})
        pool_ids = {pool_id for row in rows for pool_id in pools_of(row.action)}
        named = await declared.names_of(look.session, PoolRow, pool_ids)
        return [self._show(row, owners[row.fleet_id], named) for row in rows]

    def _show(self, row: RouteRow, fleet: str, named: Mapping[UUID, str]) -> RouteOut:
        match = MatchIn.model_validate(row.match)
        action = _shown_action(row.action, named)
        return RouteOut.of(row, fleet=fleet, match=match, action=action, explanation=sentence(match, action))


ROUTES = RouteCollection()


def _stored_match(match: MatchIn) -> dict[str, Any]:
    """Convert a match to JSON without empty conditions, with sorted values, so that equal meanings compare equal."""
    plain = match.model_dump(by_alias=True, exclude_defaults=True, exclude={"times"})
    stored: dict[str, Any] = {name: sorted(set(values)) for name, values in plain.items()}
    if match.times:
        stored["times"] = [each.model_dump(by_alias=True) for each in match.times]
    return stored


async def _stored_action(work: WriteContext, fleet_id: UUID, action: ActionIn) -> dict[str, Any]:
    """Convert an action to JSON, with pool ids for names. Raises Problem (422)."""
    if action.deny is not None:
        return {"deny": action.deny.model_dump()}
    if action.pools is None:
        return {"allow": True}

    found: set[UUID] = set()

    async def find(ref: str, field: str) -> str:
        pool, _ = await pools.refer(work.session, ref, str(fleet_id), field)
        if pool.id in found:
            message = f"the route leads to the pool {pool.name} twice"
            raise Problem(
                422, "duplicate_pool", message, errors=[FieldError(field, message, "name the pool once", ref)]
            )
        found.add(pool.id)
        return str(pool.id)

    weighted = [
        {"id": await find(each.pool, f"/action/pools/{index}/pool"), "weight": each.weight}
        for index, each in enumerate(action.pools)
    ]
    fallback = [await find(ref, f"/action/fallback/{index}") for index, ref in enumerate(action.fallback)]
    return {"pools": weighted, "fallback": fallback}


def _shown_action(stored: Mapping[str, Any], named: Mapping[UUID, str]) -> ActionIn:
    if "pools" not in stored:
        return ActionIn.model_validate(stored)
    weighted = [{"pool": named[UUID(each["id"])], "weight": each["weight"]} for each in stored["pools"]]
    fallback = [named[UUID(pool_id)] for pool_id in stored["fallback"]]
    return ActionIn.model_validate({"pools": weighted, "fallback": fallback})


def _conflicts(name: str) -> dict[str, Problem]:
    return {
        "uq_route_fleet_id_name": duplicate("/name", name, "another route of the fleet has this name"),
        "fk_route_pool_pool_id_pool": unknown("pool", "/action/pools", "", "a pool was removed meanwhile"),
    }
