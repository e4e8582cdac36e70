"""Pools: exits that serve one wish, usually a country."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from api.features.containers.schemas import ContainersIn
from api.features.containers.service import states_of
from api.features.fleets import service as fleets
from api.features.pools.schemas import BalancingIn, PoolIn, PoolOut, PoolPatch, PoolQuery, ResilienceIn
from api.features.rollouts.rejections import standing
from api.http.field_errors import FieldError
from api.http.problems import Problem, clashes, duplicate, in_use, unknown
from api.kernel.caller import Caller
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.shrink_guard import no_silent_shrink
from api.kernel.writes import WriteContext
from model.repositories import containers, declared
from model.tables import FleetRow, PoolRow
from xds.translate import names
from xds.translate.scopes import ExitGroup, GatewayGroup, ParentProxyGroup

_OBJECTS: Mapping[str, type[BaseModel]] = {
    "balancing": BalancingIn,
    "resilience": ResilienceIn,
    "containers": ContainersIn,
}
"""What is stored as JSON."""
_NAME_THE_FLEET = "several fleets have a pool of this name"


class PoolCollection(Collection[PoolRow, PoolIn, PoolOut]):
    name, kind = "pools", "pool"
    table, wish, patch, view, query = PoolRow, PoolIn, PoolPatch, PoolOut, PoolQuery
    volatile = frozenset({"containers_state", "rejections"})

    def sortable(self) -> Mapping[str, Any]:
        return {**super().sortable(), "country": col(PoolRow.country)}

    async def create(self, work: WriteContext, wish: PoolIn) -> PoolRow:
        """Raises Problem: 422 for an unknown fleet, 409 when its name, or its country and city, are taken there."""
        fleet = await fleets.refer(work.session, wish.fleet, caller=work.caller)
        fields = _stored(wish.model_dump(exclude={"fleet"}))
        gone = {"fk_pool_fleet_id_fleet": unknown("fleet", "/fleet", wish.fleet)}
        with clashes(_taken(fields) | gone):
            return await declared.save(work.unit, PoolRow(fleet_id=fleet.id, created_at=work.now, **fields))

    async def change(self, work: WriteContext, row: PoolRow, fields: dict[str, Any]) -> None:
        """Raises Problem: 409 when the new name, or country and city, are taken, or too little would be left.

        A pool that is to have no containers any more has those drained that it has.
        """
        await self.stay(work, row, fields)
        stored = _stored(fields)
        retired = "containers" in stored and stored["containers"] is None and row.containers is not None
        with clashes(_taken(stored)):
            await declared.save_changes(work.unit, row, stored)
        if retired:
            async with no_silent_shrink(work, [row.fleet_id]):
                await containers.start_removal_of_pool(work.unit, row.id, work.now)

    async def remove(self, work: WriteContext, row: PoolRow) -> None:
        """Raises Problem: 409 while the pool has exits, or anything leads to it, or when too little would be left."""
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
        async with no_silent_shrink(work, [row.fleet_id]):
            with clashes({key: in_use("pool", row.name, message, hint) for key, (message, hint) in users.items()}):
                await declared.remove(work.unit, row)

    async def show(self, look: ReadContext, rows: Sequence[PoolRow]) -> list[PoolOut]:
        owners = await declared.fleet_names(look.session, {row.fleet_id for row in rows})
        rejections = await standing(look.session)
        states = await states_of(look, rows)
        return [
            PoolOut.of(
                row,
                city=row.city or None,
                balancing=BalancingIn.model_validate(row.balancing),
                resilience=ResilienceIn.model_validate(row.resilience),
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
    """The pool that a body's `pool` and `fleet` name. Raises Problem (422)."""
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


def _delete_exits(row: PoolRow, where: str) -> str:
    if row.containers is not None:
        return 'have them drained and removed first: PATCH it with "containers": null'
    return f"delete or move them first: GET /api/v1/exits?{where}"


def _stored(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is as by default, so that what means the same is the same."""
    stored = dict(fields)
    if "city" in stored:
        stored["city"] = stored["city"] or ""
    for name, schema in _OBJECTS.items():
        if stored.get(name) is not None:
            stored[name] = schema.model_validate(stored[name]).model_dump(exclude_defaults=True)
    return stored


def _taken(fields: Mapping[str, Any]) -> dict[str, Problem]:
    place = "city" if fields.get("city") else "country"
    return {
        "uq_pool_fleet_id_name": duplicate("/name", fields.get("name", ""), "another pool of the fleet has this name"),
        "uq_pool_fleet_id_country_city": duplicate(
            f"/{place}",
            fields.get(place, ""),
            f"the fleet has a pool for this {place}",
            'add exits to that pool, or let this one be asked for by name: "only_by_name": true',
        ),
    }
