"""Proxies: the Envoys under control, gateways and those of exits. They come by enrolment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.problems import PATH_FIELDS, FieldError, Problem, in_use, not_found
from api.proxies.schemas import AtOut, LastHeartbeatOut, ProxyOut, ProxyPatch, SyncOut, SyncStatus
from api.rollouts.rejections import standing
from api.rollouts.schemas import RejectedOut
from api.values import as_id
from model.changes import Unit
from model.repositories import declared, heartbeats, sync
from model.tables import FleetRow, HeartbeatRow, ProxyRow, SyncRow
from model.world import Role


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a proxy beside its declaration."""

    heartbeat: HeartbeatRow | None
    sync: Sequence[SyncRow]
    rejections: Sequence[RejectedOut]


async def show_all(session: AsyncSession, fleet: str | None, heard_since: datetime) -> list[ProxyOut]:
    """Every proxy (of a fleet), by fleet, role and name."""
    heard = await heartbeats.of_proxies(session)
    standings = await sync.of_all(session)
    rejections = await standing(session)
    return [
        _show(
            proxy,
            owner,
            Seen(heard.get(proxy.id), standings.get(proxy.id, ()), rejections.by_proxy(proxy.id)),
            heard_since,
        )
        for proxy, owner in await declared.all_proxies(session, fleet=fleet)
    ]


async def find(session: AsyncSession, ref: str) -> tuple[ProxyRow, FleetRow]:
    """A proxy and its fleet. Raises Problem (404)."""
    proxy_id = as_id(ref)
    found = await declared.find_proxy_with_fleet(session, proxy_id) if proxy_id else None
    if found is None:
        raise not_found("proxy", ref)
    return found


async def show(session: AsyncSession, ref: str, heard_since: datetime) -> ProxyOut:
    """Raises Problem (404)."""
    proxy, fleet = await find(session, ref)
    seen = Seen(
        await heartbeats.find(session, proxy.id),
        await sync.of_proxy(session, proxy.id),
        (await standing(session)).by_proxy(proxy.id),
    )
    return _show(proxy, fleet, seen, heard_since)


async def change(unit: Unit, ref: str, patch: ProxyPatch, heard_since: datetime) -> ProxyOut:
    """Raises Problem: 404, or 409 for the Envoy of an exit, which changes with it."""
    proxy = await _find_to_change(unit, ref)
    if proxy.role == Role.EXIT:
        message, mend = "this is the Envoy of an exit", f"change the exit: PATCH /api/v1/exits/{proxy.id}"
        raise Problem(409, "envoy_of_exit", message, errors=[FieldError(PATH_FIELDS["proxy"], message, mend, ref)])
    await declared.save_changes(unit, proxy, patch.model_dump(exclude_unset=True))
    return await show(unit.session, ref, heard_since)


async def remove(unit: Unit, ref: str) -> UUID:
    """Deregister a gateway. Gives its id; raises Problem: 404, or 409 for the Envoy of an exit."""
    proxy = await _find_to_change(unit, ref)
    if proxy.role == Role.EXIT:
        raise in_use("proxy", ref, "this is the Envoy of an exit", f"remove the exit: DELETE /api/v1/exits/{proxy.id}")
    await declared.remove(unit, proxy)
    await heartbeats.forget(unit.session, proxy.id)
    await sync.forget(unit.session, proxy.id)
    return proxy.id


async def _find_to_change(unit: Unit, ref: str) -> ProxyRow:
    proxy_id = as_id(ref)
    proxy = await declared.lock(unit.session, ProxyRow, proxy_id) if proxy_id else None
    if proxy is None:
        raise not_found("proxy", ref)
    return proxy


def _show(proxy: ProxyRow, fleet: FleetRow, seen: Seen, heard_since: datetime) -> ProxyOut:
    beat = seen.heartbeat
    return ProxyOut(
        id=proxy.id,
        name=proxy.name,
        role=Role(proxy.role),
        fleet=fleet.name,
        fleet_id=fleet.id,
        locality=proxy.locality,
        connected=beat is not None and beat.heard_at >= heard_since and not beat.leaving,
        last_heartbeat=beat and _show_heartbeat(beat),
        sync=[show_sync(row) for row in seen.sync],
        rejections=list(seen.rejections),
        created_at=proxy.created_at,
    )


def _show_heartbeat(row: HeartbeatRow) -> LastHeartbeatOut:
    return LastHeartbeatOut(
        at=row.heard_at,
        tunnel="up" if row.tunnel_up else "down",
        envoy="up" if row.envoy_up else "down",
        leaving=row.leaving,
        reason=row.reason,
        version=row.version,
    )


def show_sync(row: SyncRow) -> SyncOut:
    """Where a proxy stands for a type."""
    return SyncOut(
        type_url=row.type_url,
        status=_status(row),
        connected=row.replica is not None,
        desired=_at_revision(row.wanted_revision, row.wanted_at),
        sent=_at_revision(row.sent_revision, row.sent_at),
        acknowledged=_at_revision(row.accepted_revision, row.accepted_at),
        rejected=_at_revision(row.rejected_revision, row.rejected_at),
        detail=row.detail,
    )


def _status(row: SyncRow) -> SyncStatus:
    accepted, rejected = row.accepted_revision or 0, row.rejected_revision or 0
    if rejected > accepted:
        return "rejected"
    return "accepted" if row.accepted_revision is not None and accepted >= row.wanted_revision else "pending"


def _at_revision(revision: int | None, at: datetime | None) -> AtOut | None:
    return None if revision is None or at is None else AtOut(revision=revision, at=at)
