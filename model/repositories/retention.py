"""Deletion of rows that are too old, or that belong to things that are gone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.entities import ResourceKey
from model.repositories import rollout
from model.repositories.logins import KEEP_THROTTLES_FOR
from model.tables import (
    AcceptedRow,
    CanaryRow,
    ChangeRow,
    ConfigRequestRow,
    JoinTokenRow,
    ProxyRow,
    RejectionRow,
    ReplicaRow,
    RolloutRow,
    SessionRow,
    SyncRow,
    ThrottleRow,
)
from model.unit_of_work import UnitOfWork
from model.world import Kind


async def prune(session: AsyncSession, *, before: datetime, keep: int) -> None:
    """Delete changes from before a time except the newest `keep`, join tokens that expired then, and old config requests.

    Revisions are deleted whole and in order, whatever the clocks of their writers were: the rest of the log has no gap.
    """
    revision = col(ChangeRow.revision)
    newest = select(revision).order_by(col(ChangeRow.id).desc()).offset(keep - 1).limit(1).scalar_subquery()
    young = select(func.min(revision)).where(col(ChangeRow.at) >= before).scalar_subquery()
    await session.execute(delete(ChangeRow).where(revision < newest, revision < func.coalesce(young, newest)))
    await session.execute(delete(JoinTokenRow).where(col(JoinTokenRow.expires_at) < before))
    await session.execute(delete(ConfigRequestRow).where(col(ConfigRequestRow.asked_at) < before))


async def prune_logins(session: AsyncSession, now: datetime) -> None:
    """Delete expired sessions, and failed logins older than KEEP_THROTTLES_FOR."""
    await session.execute(delete(SessionRow).where(col(SessionRow.expires_at) < now))
    await session.execute(delete(ThrottleRow).where(col(ThrottleRow.at) < now - KEEP_THROTTLES_FOR))


async def prune_groups(unit: UnitOfWork, *, before: datetime) -> None:
    """Delete the rollout state of groups whose fleet, pool or exit is gone.

    Delete also rejections from before a time, in groups without an open rollout.
    """
    session = unit.session
    owners = text(
        "SELECT CAST(id AS text) FROM fleet UNION ALL SELECT CAST(id AS text) FROM pool UNION ALL SELECT CAST(id AS text) FROM exit"
    )
    known = set((await session.execute(owners)).scalars())
    for table in (AcceptedRow, RejectionRow, RolloutRow, CanaryRow):
        groups = (await session.execute(select(col(table.group)).distinct())).scalars().all()
        gone = [group for group in groups if group.split("/")[1] not in known]
        await _delete(unit, table, col(table.group).in_(gone))
    open_rollouts = select(col(RolloutRow.group))
    await rollout.forget_rejections(unit, col(RejectionRow.at) < before, col(RejectionRow.group).not_in(open_rollouts))
    proxies = select(col(ProxyRow.id))
    await _delete(unit, CanaryRow, col(CanaryRow.proxy_id).not_in(proxies))


async def _delete(
    unit: UnitOfWork, table: type[AcceptedRow | RejectionRow | RolloutRow | CanaryRow], *which: Any
) -> None:
    for row in (await unit.session.execute(delete(table).where(*which).returning(table))).scalars():
        if isinstance(row, AcceptedRow | RejectionRow):
            key = ResourceKey(row.group, row.type_url, row.name)
            if isinstance(row, AcceptedRow):
                unit.touch(Kind.ACCEPTED, key)
            else:
                unit.touch(Kind.REJECTION, (key, row.version, row.proxy_id))


async def reap_replicas(session: AsyncSession) -> Sequence[UUID]:
    """Delete dead replicas of the xDS server, and their claims on streams and canaries. Return their ids."""
    dead = delete(ReplicaRow).where(~rollout.is_alive()).returning(col(ReplicaRow.id))
    reaped = (await session.execute(dead)).scalars().all()
    if reaped:
        await session.execute(update(SyncRow).where(col(SyncRow.replica).in_(reaped)).values(replica=None))
        await session.execute(delete(CanaryRow).where(col(CanaryRow.replica).in_(reaped)))
    return reaped
