"""Fleets: gateways that share configuration, with the one listener that they open."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from api.fleets.schemas import FleetIn, FleetOut, FleetPatch, ListenerOut
from api.problems import Problem, clashes, duplicate, in_use, not_found, unknown
from api.rollouts.rejections import Rejections, standing
from api.values import as_reference
from model.changes import Unit
from model.repositories import declared
from model.tables import FleetRow, ListenerRow
from xds.translate import names
from xds.translate.group import GatewayGroup


async def create(unit: Unit, wish: FleetIn, now: datetime) -> FleetOut:
    """Raises Problem (409) when the name is taken."""
    fleet = FleetRow(name=wish.name, created_at=now)
    with clashes({"uq_fleet_name": _name_taken(wish.name)}):
        await declared.save(unit, fleet)
    listener = ListenerRow(fleet_id=fleet.id, address=wish.listener.address, port=wish.listener.port)
    return _show(fleet, await declared.save(unit, listener), Rejections(()))


async def show_all(session: AsyncSession) -> list[FleetOut]:
    """Every fleet, by name."""
    rejections = await standing(session)
    return [_show(fleet, listener, rejections) for fleet, listener in await declared.all_fleets(session)]


async def show(session: AsyncSession, ref: str) -> FleetOut:
    """Raises Problem (404)."""
    return _show(*await _find(session, ref), await standing(session))


async def change(unit: Unit, ref: str, patch: FleetPatch) -> FleetOut:
    """Raises Problem: 404, or 409 when the name is taken."""
    fleet, listener = await _find_to_change(unit, ref)
    wanted = patch.model_dump(exclude_unset=True)
    changes: dict[str, Any] = wanted.pop("listener", {})
    with clashes({"uq_fleet_name": _name_taken(wanted.get("name", ""))}):
        await declared.save_changes(unit, fleet, wanted)
    await declared.save_changes(unit, listener, changes)
    return _show(fleet, listener, await standing(unit.session))


async def remove(unit: Unit, ref: str) -> None:
    """Raises Problem: 404, or 409 while pools or proxies are in it."""
    fleet, listener = await _find_to_change(unit, ref)
    pools = in_use("fleet", ref, "the fleet has pools", f"delete them first: GET /api/v1/pools?fleet={fleet.name}")
    proxies = in_use(
        "fleet", ref, "the fleet has proxies", f"delete them first: GET /api/v1/proxies?fleet={fleet.name}"
    )
    with clashes({"fk_pool_fleet_id_fleet": pools, "fk_proxy_fleet_id_fleet": proxies}):
        await declared.remove(unit, listener)
        await declared.remove(unit, fleet)


async def refer(session: AsyncSession, ref: str, field: str = "/fleet") -> FleetRow:
    """The fleet that a body names. Raises Problem (422)."""
    found = await declared.find_fleet(session, ref)
    if found is None:
        raise unknown("fleet", field, ref)
    return found[0]


async def _find(session: AsyncSession, ref: str) -> tuple[FleetRow, ListenerRow]:
    reference = as_reference(ref)
    found = await declared.find_fleet(session, reference) if reference else None
    if found is None:
        raise not_found("fleet", ref)
    return found


async def _find_to_change(unit: Unit, ref: str) -> tuple[FleetRow, ListenerRow]:
    fleet, listener = await _find(unit.session, ref)
    if await declared.lock(unit.session, FleetRow, fleet.id) is None:
        raise not_found("fleet", ref)
    await declared.lock(unit.session, ListenerRow, listener.id)
    return fleet, listener


def _name_taken(name: str) -> Problem:
    return duplicate("/name", name, "another fleet has this name")


def _show(fleet: FleetRow, listener: ListenerRow, rejections: Rejections) -> FleetOut:
    own = (names.GATEWAY_LISTENER, names.GATEWAY_ROUTES)
    return FleetOut(
        id=fleet.id,
        name=fleet.name,
        listener=ListenerOut(address=listener.address, port=listener.port),
        rejections=rejections.of_groups([GatewayGroup(fleet.id).key], *own),
        created_at=fleet.created_at,
    )
