"""The addresses at which Prometheus scrapes replicas and proxies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.repositories.rollout import is_alive
from model.tables import ExitRow, FleetRow, HeartbeatRow, PoolRow, ProxyRow, ReplicaRow


class ProxyTarget(NamedTuple):
    """The Envoy of a connected proxy. `pool` is None for gateways."""

    address: str
    fleet_id: UUID
    fleet: str
    role: str
    name: str
    pool: str | None


async def of_replicas(session: AsyncSession) -> Sequence[str]:
    """Return the addresses of living replicas, sorted."""
    address = col(ReplicaRow.metrics_address)
    query = select(address).where(is_alive(), address.is_not(None)).distinct().order_by(address)
    return [found for found in (await session.execute(query)).scalars() if found is not None]


async def of_proxies(session: AsyncSession, alive_since: datetime) -> Sequence[ProxyTarget]:
    """Return the Envoys of proxies that sent a heartbeat since then and reported an address, by fleet, role and name."""
    address = col(HeartbeatRow.metrics_address)
    query = (
        select(address, col(FleetRow.id), col(FleetRow.name), col(ProxyRow.role), col(ProxyRow.name), col(PoolRow.name))
        .join(ProxyRow, col(ProxyRow.id) == col(HeartbeatRow.proxy_id))
        .join(FleetRow, col(FleetRow.id) == col(ProxyRow.fleet_id))
        .outerjoin(ExitRow, col(ExitRow.id) == col(ProxyRow.id))
        .outerjoin(PoolRow, col(PoolRow.id) == col(ExitRow.pool_id))
        .where(address.is_not(None), col(HeartbeatRow.heard_at) >= alive_since)
        .order_by(col(FleetRow.name), col(ProxyRow.role), col(ProxyRow.name))
    )
    rows: Sequence[Any] = (await session.execute(query)).all()
    return [ProxyTarget(*row) for row in rows]
