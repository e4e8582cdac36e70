"""Proxies: the Envoys under control, gateways and those of exits. They come by enrolment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.problems import in_use, not_found
from api.proxies.schemas import LastHeartbeatOut, ProxyOut, RejectionOut, SyncOut
from api.values import as_id
from model.changes import Unit
from model.repositories import declared, heartbeats, rollout
from model.tables import FleetRow, HeartbeatRow, ProxyRow, RejectionRow, SyncRow
from model.world import Role


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a proxy beside its declaration."""

    heartbeat: HeartbeatRow | None
    sync: Sequence[SyncRow]
    rejections: Sequence[RejectionRow]


async def show_all(session: AsyncSession, fleet: str | None, heard_since: datetime) -> list[ProxyOut]:
    """Every proxy (of a fleet), by fleet, role and name."""
    heard = await heartbeats.of_proxies(session)
    sync = await rollout.all_sync(session)
    rejections: dict[UUID, list[RejectionRow]] = {}
    for row in await rollout.rejections_by(session):
        rejections.setdefault(row.proxy_id, []).append(row)
    return [
        _show(
            proxy,
            owner,
            Seen(heard.get(proxy.id), sync.get(proxy.id, ()), rejections.get(proxy.id, ())),
            heard_since,
        )
        for proxy, owner in await declared.all_proxies(session, fleet=fleet)
    ]


async def show(session: AsyncSession, ref: str, heard_since: datetime) -> ProxyOut:
    """Raises Problem (404)."""
    proxy_id = as_id(ref)
    found = await declared.find_proxy_with_fleet(session, proxy_id) if proxy_id else None
    if found is None:
        raise not_found("proxy", ref)
    proxy, fleet = found
    seen = Seen(
        await heartbeats.find(session, proxy.id),
        await rollout.sync_of(session, proxy.id),
        await rollout.rejections_by(session, proxy.id),
    )
    return _show(proxy, fleet, seen, heard_since)


async def remove(unit: Unit, ref: str) -> UUID:
    """Deregister a gateway. Gives its id; raises Problem: 404, or 409 for the Envoy of an exit."""
    proxy_id = as_id(ref)
    proxy = await declared.lock(unit.session, ProxyRow, proxy_id) if proxy_id else None
    if proxy is None:
        raise not_found("proxy", ref)
    if proxy.role == Role.EXIT:
        raise in_use("proxy", ref, "this is the Envoy of an exit", f"remove the exit: DELETE /api/v1/exits/{proxy.id}")
    await declared.remove(unit, proxy)
    await heartbeats.forget(unit.session, proxy.id)
    await rollout.forget_sync(unit.session, proxy.id)
    return proxy.id


def _show(proxy: ProxyRow, fleet: FleetRow, seen: Seen, heard_since: datetime) -> ProxyOut:
    beat = seen.heartbeat
    return ProxyOut(
        id=proxy.id,
        name=proxy.name,
        role=Role(proxy.role),
        fleet=fleet.name,
        fleet_id=fleet.id,
        connected=beat is not None and beat.heard_at >= heard_since and not beat.leaving,
        last_heartbeat=beat and _show_heartbeat(beat),
        sync=[_show_sync(row) for row in seen.sync],
        rejections=[_show_rejection(row) for row in seen.rejections],
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


def _show_sync(row: SyncRow) -> SyncOut:
    status = "accepted" if row.accepted else "rejected"
    return SyncOut(type_url=row.type_url, status=status, revision=row.revision, detail=row.detail, at=row.at)


def _show_rejection(row: RejectionRow) -> RejectionOut:
    return RejectionOut(type_url=row.type_url, resource=row.name, version=row.version, detail=row.detail, at=row.at)
