"""Pools: exits that serve one country."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from api.fleets import service as fleets
from api.guard_rails import no_silent_shrink
from api.pools.schemas import PoolIn, PoolOut, PoolPatch
from api.problems import PATH_FIELDS, FieldError, Problem, clashes, duplicate, in_use, not_found, unknown
from api.rollouts.rejections import Rejections, standing
from api.values import as_reference
from model.changes import Unit
from model.repositories import declared
from model.tables import FleetRow, PoolRow
from xds.translate import names
from xds.translate.group import ExitGroup, GatewayGroup

_NAME_THE_FLEET = "several fleets have a pool of this name"


async def create(unit: Unit, wish: PoolIn, now: datetime) -> PoolOut:
    """Raises Problem: 422 for an unknown fleet, 409 when its name or country is taken there."""
    fleet = await fleets.refer(unit.session, wish.fleet)
    pool = PoolRow(fleet_id=fleet.id, name=wish.name, country=wish.country, created_at=now)
    gone = {"fk_pool_fleet_id_fleet": unknown("fleet", "/fleet", wish.fleet)}
    with clashes(_taken(wish.name, wish.country) | gone):
        await declared.save(unit, pool)
    return _show(pool, fleet, Rejections(()))


async def show_all(session: AsyncSession, fleet: str | None) -> list[PoolOut]:
    """Every pool (of a fleet), by fleet and name."""
    rejections = await standing(session)
    return [_show(pool, owner, rejections) for pool, owner in await declared.all_pools(session, fleet=fleet)]


async def show(session: AsyncSession, ref: str, fleet: str | None) -> PoolOut:
    """Raises Problem: 404, or 409 for a name that several fleets use."""
    return _show(*await _find(session, ref, fleet), await standing(session))


async def change(unit: Unit, ref: str, fleet: str | None, patch: PoolPatch) -> PoolOut:
    """Raises Problem: 404, or 409 when the name is ambiguous, or the new name or country taken."""
    pool, owner = await _find_to_change(unit, ref, fleet)
    wanted = patch.model_dump(exclude_unset=True)
    with clashes(_taken(wanted.get("name", ""), wanted.get("country", ""))):
        await declared.save_changes(unit, pool, wanted)
    return _show(pool, owner, await standing(unit.session))


async def remove(unit: Unit, ref: str, fleet: str | None, approve: str | None) -> None:
    """Raises Problem: 404, or 409 when the name is ambiguous, while the pool has exits, or when it is the last."""
    pool, owner = await _find_to_change(unit, ref, fleet)
    mend = f"delete or move them first: GET /api/v1/exits?pool={pool.name}&fleet={owner.name}"
    async with no_silent_shrink(unit, owner.id, approve):
        with clashes({"fk_exit_pool_id_pool": in_use("pool", ref, "the pool has exits", mend)}):
            await declared.remove(unit, pool)


async def refer(session: AsyncSession, ref: str, fleet: str | None) -> tuple[PoolRow, FleetRow]:
    """The pool that a body's `pool` and `fleet` name. Raises Problem (422)."""
    if fleet is not None:
        await fleets.refer(session, fleet)
    found = await declared.pools_matching(session, ref, fleet=fleet)
    if not found:
        raise unknown("pool", "/pool", ref, f"the fleet {fleet} has no such pool" if fleet else "")
    if len(found) > 1:
        error = FieldError("/pool", _NAME_THE_FLEET, f'add "fleet": one of {_owners(found)}', ref)
        raise Problem(422, "ambiguous", _NAME_THE_FLEET, errors=[error])
    return found[0]


async def _find(session: AsyncSession, ref: str, fleet: str | None) -> tuple[PoolRow, FleetRow]:
    reference = as_reference(ref)
    found = await declared.pools_matching(session, reference, fleet=fleet) if reference else []
    if not found:
        raise not_found("pool", ref)
    if len(found) > 1:
        error = FieldError(PATH_FIELDS["pool"], _NAME_THE_FLEET, f"add ?fleet= with one of {_owners(found)}", ref)
        raise Problem(409, "ambiguous", _NAME_THE_FLEET, errors=[error])
    return found[0]


async def _find_to_change(unit: Unit, ref: str, fleet: str | None) -> tuple[PoolRow, FleetRow]:
    pool, owner = await _find(unit.session, ref, fleet)
    if await declared.lock(unit.session, PoolRow, pool.id) is None:
        raise not_found("pool", ref)
    return pool, owner


def _owners(found: Sequence[tuple[PoolRow, FleetRow]]) -> str:
    return ", ".join(fleet.name for _, fleet in found[:10])


def _taken(name: str, country: str) -> dict[str, Problem]:
    return {
        "uq_pool_fleet_id_name": duplicate("/name", name, "another pool of the fleet has this name"),
        "uq_pool_fleet_id_country_city": duplicate(
            "/country", country, "the fleet has a pool for this country", "add exits to that pool, or use another fleet"
        ),
    }


def _show(pool: PoolRow, fleet: FleetRow, rejections: Rejections) -> PoolOut:
    of_gateways = rejections.of_groups([GatewayGroup(fleet.id).key], f"{names.POOL_PREFIX}{pool.id}")
    return PoolOut(
        id=pool.id,
        name=pool.name,
        fleet=fleet.name,
        fleet_id=fleet.id,
        country=pool.country,
        rejections=[*of_gateways, *rejections.of_groups([ExitGroup(pool.id).key])],
        created_at=pool.created_at,
    )
