"""Pools: exits that serve one country."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from api.fleets import service as fleets
from api.pools.schemas import PoolIn, PoolOut, PoolPatch
from api.problems import PATH_FIELDS, FieldError, Problem, clashes, duplicate, in_use, not_found, unknown
from api.values import as_reference
from model.changes import Unit
from model.repositories import declared
from model.tables import FleetRow, PoolRow

_NAME_THE_FLEET = "several fleets have a pool of this name"


async def create(unit: Unit, wish: PoolIn, now: datetime) -> PoolOut:
    """Raises Problem: 422 for an unknown fleet, 409 when its name or country is taken there."""
    fleet = await fleets.refer(unit.session, wish.fleet)
    pool = PoolRow(fleet_id=fleet.id, name=wish.name, country=wish.country, created_at=now)
    gone = {"fk_pool_fleet_id_fleet": unknown("fleet", "/fleet", wish.fleet)}
    with clashes(_taken(wish.name, wish.country) | gone):
        await declared.save(unit, pool)
    return _show(pool, fleet)


async def show_all(session: AsyncSession, fleet: str | None) -> list[PoolOut]:
    """Every pool (of a fleet), by fleet and name."""
    return [_show(pool, owner) for pool, owner in await declared.all_pools(session, fleet=fleet)]


async def show(session: AsyncSession, ref: str, fleet: str | None) -> PoolOut:
    """Raises Problem: 404, or 409 for a name that several fleets use."""
    return _show(*await _find(session, ref, fleet))


async def change(unit: Unit, ref: str, fleet: str | None, patch: PoolPatch) -> PoolOut:
    """Raises Problem: 404, or 409 when the name is ambiguous, or the new name or country taken."""
    pool, owner = await _find_to_change(unit, ref, fleet)
    wanted = patch.model_dump(exclude_unset=True)
    with clashes(_taken(wanted.get("name", ""), wanted.get("country", ""))):
        await declared.save_changes(unit, pool, wanted)
    return _show(pool, owner)


async def remove(unit: Unit, ref: str, fleet: str | None) -> None:
    """Raises Problem: 404, or 409 when the name is ambiguous, or while the pool has exits."""
    pool, owner = await _find_to_change(unit, ref, fleet)
    mend = f"delete or move them first: GET /api/v1/exits?pool={pool.name}&fleet={owner.name}"
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
        "uq_pool_fleet_id_country": duplicate(
            "/country", country, "the fleet has a pool for this country", "add exits to that pool, or use another fleet"
        ),
    }


def _show(pool: PoolRow, fleet: FleetRow) -> PoolOut:
    return PoolOut(
        id=pool.id,
        name=pool.name,
        fleet=fleet.name,
        fleet_id=fleet.id,
        country=pool.country,
        created_at=pool.created_at,
    )
