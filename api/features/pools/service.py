"""Pools of exits that serve one country or city."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from api.features.fleets import service as fleets
from api.features.pools.container_schemas import ContainersIn
from api.features.pools.container_states import read_container_states
from api.features.pools.schemas import BalancingIn, PoolIn, PoolOut, PoolPatch, PoolQuery, ResilienceIn
from api.features.rejections.service import load_rejections
from api.http.field_errors import FieldError
from api.http.problems import Problem, clashes, duplicate, in_use, unknown
from api.kernel.caller import Caller
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.shrink_guard import require_shrink_approval
from api.kernel.writes import WriteContext
from model.repositories import containers, declared
from model.stored_containers import read_containers
from model.stored_pools import read_resilience
from model.tables import FleetRow, PoolRow
from xds.translate import names
from xds.translate.scopes import ExitGroup, GatewayGroup, ParentProxyGroup

_OBJECTS: Mapping[str, type[BaseModel]] = {
    "balancing": BalancingIn,
    "resilience": ResilienceIn,
    "containers": ContainersIn,
}
"""The fields that are stored as JSON."""
_NAME_THE_FLEET = "several fleets have a pool of this name"


class PoolCollection(Collection[PoolRow, PoolIn, PoolOut]):
    name, kind = "pools", "pool"
    table, request_model, patch_model, response_model, query_model = PoolRow, PoolIn, PoolPatch, PoolOut, PoolQuery
    volatile = frozenset({"containers_state", "rejections"})

    def sortable(self) -> Mapping[str, Any]:
        return {**super().sortable(), "country": col(PoolRow.country)}

    async def create(self, work: WriteContext, body: PoolIn) -> PoolRow:
        """Create a pool.

        Raises Problem: 422 for an unknown fleet or containers that it may not have, 409 when the name, or country and city,
        are taken in the fleet.
        """
        fleet = await fleets.refer(work.session, body.fleet, caller=work.caller)
        fields = _to_columns(body.model_dump(exclude={"fleet"}))
        _check_policy(work, fleet.name, fields.get("containers"))
        missing_fleet = {"fk_pool_fleet_id_fleet": unknown("fleet", "/fleet", body.fleet)}
        with clashes(_conflicts(fields) | missing_fleet):
            return await declared.save(work.unit, PoolRow(fleet_id=fleet.id, created_at=work.now, **fields))

    async def change(self, work: WriteContext, row: PoolRow, fields: dict[str, Any]) -> None:
        """Update a pool. Setting `containers` to null drains the existing ones.

        Raises Problem: 409 when the name, or country and city, are taken, or when the change would shrink the fleet.
        """
        await self.reject_fleet_change(work, row, fields)
        stored = _to_columns(fields)
        if stored.get("containers") not in (None, row.containers):
            fleet = await declared.get_fleet(work.session, row.fleet_id)
            _check_policy(work, fleet.name, stored["containers"])
        retired = "containers" in stored and stored["containers"] is None and row.containers is not None
        with clashes(_conflicts(stored)):
            await declared.save_changes(work.unit, row, stored)
        if retired:
            async with require_shrink_approval(work, [row.fleet_id]):
                await containers.start_removal_of_pool(work.unit, row.id, work.now)

    async def remove(self, work: WriteContext, row: PoolRow) -> None:
        """Delete a pool.

        Raises Problem: 409 while exits, routes or listeners refer to the pool, or when the removal would shrink the fleet.
        """
        fleet = await declared.get_fleet(work.session, row.fleet_id)
        where = f"pool={row.name}&fleet={fleet.name}"
        users = {
            "fk_exit_pool_id_pool": ("the pool has exits", _delete_exits(row, where)),
            "fk_route_pool_pool_id_pool": ("a route leads to the pool", f"change it first: GET /api/v1/routes?{where}"),
            "fk_listener_pool_id_pool": (
                "a listener leads to the pool",
                f"change it first: GET /api/v1/listeners?{where}",
            ),
        }
        async with require_shrink_approval(work, [row.fleet_id]):
            with clashes({key: in_use("pool", row.name, message, hint) for key, (message, hint) in users.items()}):
                await declared.remove(work.unit, row)

    async def show(self, look: ReadContext, rows: Sequence[PoolRow]) -> list[PoolOut]:
        owners = await declared.fleet_names(look.session, {row.fleet_id for row in rows})
        rejections = await load_rejections(look.session)
        states = await read_container_states(look, rows)
        return [
            PoolOut.of(
                row,
                city=row.city or None,
                balancing=BalancingIn.model_validate(row.balancing),
                resilience=ResilienceIn(**asdict(read_resilience(row.resilience))),
                fleet=owners[row.fleet_id],
                containers=None if row.containers is None else ContainersIn.model_validate(row.containers),
                containers_state=states.get(row.id),
                rejections=[
                    *rejections.of_groups([GatewayGroup(row.fleet_id).key], f"{names.POOL_PREFIX}{row.id}"),
                    *rejections.of_groups([ExitGroup(row.id).key, ParentProxyGroup(row.id).key]),
                ],
            )
            for row in rows
        ]


POOLS = PoolCollection()


async def refer(
    session: AsyncSession, ref: str, fleet: str | None, field: str = "/pool", caller: Caller | None = None
) -> tuple[PoolRow, FleetRow]:
    """Return the pool that a body's `pool` and `fleet` name. Raises Problem (422)."""
    if fleet is not None:
        await fleets.refer(session, fleet, caller=caller)
    found = [
        (pool, owner)
        for pool, owner in await declared.pools_matching(session, ref, fleet=fleet)
        if caller is None or caller.sees(owner.id)
    ]
    if not found:
        raise unknown("pool", field, ref, f"the fleet {fleet} has no such pool" if fleet else "")
    if len(found) > 1:
        owners = ", ".join(fleet.name for _, fleet in found[:10])
        error = FieldError(field, _NAME_THE_FLEET, f'add "fleet": one of {owners}', ref)
        raise Problem(422, "ambiguous", _NAME_THE_FLEET, errors=[error])
    return found[0]


def _check_policy(work: WriteContext, fleet: str, stored: Mapping[str, Any] | None) -> None:
    """Check that a fleet may have such containers. Raises Problem (422)."""
    if stored is None:
        return
    refusals = work.container_policy.refusals(fleet, read_containers(stored))
    if refusals:
        errors = [FieldError(f"/containers/{each.field}", each.message, each.hint, each.value) for each in refusals]
        raise Problem(422, "container_not_allowed", refusals[0].message, errors=errors)


def _delete_exits(row: PoolRow, where: str) -> str:
    if row.containers is not None:
        return 'drain and remove its containers first: PATCH the pool with "containers": null'
    return f"delete or move them first: GET /api/v1/exits?{where}"


def _to_columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the sent fields to columns, without defaults, so that equal meanings compare equal."""
    stored = dict(fields)
    if "city" in stored:
        stored["city"] = stored["city"] or ""
    for name, schema in _OBJECTS.items():
        if stored.get(name) is not None:
            stored[name] = schema.model_validate(stored[name]).model_dump(exclude_defaults=True)
    return stored


def _conflicts(fields: Mapping[str, Any]) -> dict[str, Problem]:
    location = "city" if fields.get("city") else "country"
    return {
        "uq_pool_fleet_id_name": duplicate("/name", fields.get("name", ""), "another pool of the fleet has this name"),
        "uq_pool_fleet_id_country_city": duplicate(
            f"/{location}",
            fields.get(location, ""),
            f"the fleet has a pool for this {location}",
            'add exits to that pool, or set "only_by_name": true',
        ),
    }
