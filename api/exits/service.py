"""Exits: VPN tunnels with a way in. The Envoy of an exit is a proxy with the exit's id, and comes and goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from api.exits.schemas import ExitIn, ExitOut, ExitPatch
from api.guard_rails import no_silent_shrink
from api.pools import service as pools
from api.problems import Problem, clashes, duplicate, not_found, unknown
from api.rollouts.rejections import Rejections, standing
from api.values import as_id
from model.changes import Unit
from model.repositories import declared, heartbeats, sync
from model.tables import ExitRow, FleetRow, HeartbeatRow, PoolRow, ProxyRow
from model.world import ExitState, Role
from xds.translate.group import ExitGroup, ExitOverlay

DISABLED = "disabled by an operator"
ENABLED = "enabled by an operator, not heard of since"
DECLARED = "declared, not heard of yet"
_DECLARED_FIELDS = {"name", "address", "port", "bind_address", "egress_address", "locality"}
_SHARED_FIELDS = ("name", "locality")
"""What an exit has in common with the proxy that is its Envoy."""


@dataclass(frozen=True, slots=True)
class Found:
    """An exit with what it belongs to."""

    row: ExitRow
    pool: PoolRow
    fleet: FleetRow


async def create(unit: Unit, wish: ExitIn, now: datetime) -> ExitOut:
    """Raises Problem: 422 for an unknown pool or fleet, 409 when the name is taken in the fleet."""
    pool, fleet = await pools.refer(unit.session, wish.pool, wish.fleet)
    declared_fields = wish.model_dump(include=_DECLARED_FIELDS)
    state, reason = (ExitState.REGISTERING, DECLARED) if wish.enabled else (ExitState.DISABLED, DISABLED)
    row = await add(unit, pool, declared_fields, state=state, reason=reason, now=now)
    return _show(Found(row, pool, fleet), None, Rejections(()))


async def add(
    unit: Unit, pool: PoolRow, fields: dict[str, Any], *, state: ExitState, reason: str, now: datetime
) -> ExitRow:
    """A new exit in `pool` with the proxy that is its Envoy. Raises Problem (409) when the name is taken in the fleet."""
    exit_id = uuid4()
    shared = {name: fields[name] for name in _SHARED_FIELDS}
    proxy = ProxyRow(id=exit_id, fleet_id=pool.fleet_id, role=Role.EXIT, created_at=now, **shared)
    row = ExitRow(
        id=exit_id,
        pool_id=pool.id,
        endpoint=endpoint_of(fields["address"]),
        state=state,
        state_reason=reason,
        state_since=now,
        created_at=now,
        **fields,
    )
    with clashes(_clashing(fields["name"], pool.name)):
        await declared.save(unit, proxy)
        await declared.save(unit, row, pool.fleet_id)
    return row


async def show_all(session: AsyncSession, pool: str | None, fleet: str | None) -> list[ExitOut]:
    """Every exit (of a pool, of a fleet), by fleet, pool and name."""
    rows = await declared.all_exits(session, pool=pool, fleet=fleet)
    heard, rejections = await heartbeats.of_proxies(session), await standing(session)
    return [_show(Found(*found), _at(heard.get(found[0].id)), rejections) for found in rows]


async def show(session: AsyncSession, ref: str) -> ExitOut:
    """Raises Problem (404)."""
    return await _show_whole(session, await _find(session, ref))


async def change(unit: Unit, ref: str, patch: ExitPatch, now: datetime, approve: str | None) -> ExitOut:
    """Raises Problem: 404, 422 for a pool that is not in the fleet, 409 when the name is taken or nothing would be left."""
    found = await _find_to_change(unit, ref)
    wanted = patch.model_dump(exclude_unset=True)
    pool = found.pool
    if "pool" in wanted:
        pool, _ = await pools.refer(unit.session, wanted.pop("pool"), str(found.fleet.id))
        wanted["pool_id"] = pool.id
    if "enabled" in wanted:
        wanted |= _switch(found.row, enabled=wanted.pop("enabled"), now=now)
    async with no_silent_shrink(unit, found.fleet.id, approve):
        await update(unit, found.row, pool, wanted)
    return await _show_whole(unit.session, Found(found.row, pool, found.fleet))


async def update(unit: Unit, row: ExitRow, pool: PoolRow, fields: dict[str, Any]) -> None:
    """Give a locked exit, and the proxy that is its Envoy, new values. Raises Problem (409) when a name is taken."""
    if "address" in fields and fields["address"] != row.address:
        fields["endpoint"] = endpoint_of(fields["address"])
    with clashes(_clashing(fields.get("name", row.name), pool.name)):
        if shared := {name: fields[name] for name in _SHARED_FIELDS if name in fields}:
            proxy = await declared.find_proxy(unit.session, row.id)
            assert proxy is not None, "an exit has a proxy"
            await declared.save_changes(unit, proxy, shared)
        await declared.save_changes(unit, row, fields, pool.fleet_id)


async def remove(unit: Unit, ref: str, approve: str | None) -> UUID:
    """Deregister an exit: its proxy, certificates and last heartbeat go with it. Gives its id.

    Raises Problem: 404, or 409 when it is the last healthy exit of its fleet.
    """
    found = await _find_to_change(unit, ref)
    async with no_silent_shrink(unit, found.fleet.id, approve):
        await declared.remove(unit, found.row, found.fleet.id)
    proxy = await declared.find_proxy(unit.session, found.row.id)
    if proxy is not None:
        await declared.remove(unit, proxy)
    await heartbeats.forget(unit.session, found.row.id)
    await sync.forget(unit.session, found.row.id)
    return found.row.id


def endpoint_of(address: str) -> str | None:
    """What gateways dial at once: an IP address. A host name is resolved later, by the keeper."""
    try:
        return str(ip_address(address))
    except ValueError:
        return None


def _switch(row: ExitRow, *, enabled: bool, now: datetime) -> dict[str, Any]:
    if enabled == (row.state != ExitState.DISABLED):
        return {}
    # fail closed: what was true before it was taken out need not be true now
    state, reason = (ExitState.REGISTERING, ENABLED) if enabled else (ExitState.DISABLED, DISABLED)
    return {"state": state, "state_reason": reason, "state_since": now}


async def _find(session: AsyncSession, ref: str) -> Found:
    exit_id = as_id(ref)
    found = await declared.find_exit(session, exit_id) if exit_id else None
    if found is None:
        raise not_found("exit", ref)
    return Found(*found)


async def _find_to_change(unit: Unit, ref: str) -> Found:
    exit_id = as_id(ref)
    if exit_id is None or await declared.lock(unit.session, ExitRow, exit_id) is None:
        raise not_found("exit", ref)
    return await _find(unit.session, ref)


async def _show_whole(session: AsyncSession, found: Found) -> ExitOut:
    return _show(found, await _heard_at(session, found.row.id), await standing(session))


async def _heard_at(session: AsyncSession, exit_id: UUID) -> datetime | None:
    return _at(await heartbeats.find(session, exit_id))


def _at(beat: HeartbeatRow | None) -> datetime | None:
    return None if beat is None else beat.heard_at


def _clashing(name: str, pool: str) -> dict[str, Problem]:
    taken = duplicate("/name", name, "another exit of the fleet has this name")
    return {
        "uq_proxy_fleet_id_role_name": taken,
        "uq_exit_pool_id_name": taken,
        "fk_exit_pool_id_pool": unknown("pool", "/pool", pool),
        "fk_proxy_fleet_id_fleet": unknown("fleet", "/fleet", "", "the fleet was removed meanwhile"),
    }


def _show(found: Found, heard_at: datetime | None, rejections: Rejections) -> ExitOut:
    row, pool, fleet = found.row, found.pool, found.fleet
    return ExitOut(
        id=row.id,
        name=row.name,
        pool=pool.name,
        pool_id=pool.id,
        fleet=fleet.name,
        fleet_id=fleet.id,
        country=pool.country,
        address=row.address,
        endpoint=row.endpoint,
        port=row.port,
        bind_address=row.bind_address,
        egress_address=row.egress_address,
        locality=row.locality,
        enabled=row.state != ExitState.DISABLED,
        state=ExitState(row.state),
        state_reason=row.state_reason,
        state_since=row.state_since,
        last_heartbeat_at=heard_at,
        rejections=rejections.of_groups([ExitOverlay(row.id).key, ExitGroup(pool.id).key]),
        created_at=row.created_at,
    )
