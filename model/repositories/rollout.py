"""Rollout state: released and rejected versions, canaries, approvals, open rollouts, and living replicas of the xDS server."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.database import fetch_in
from model.entities import VALIDATOR, Rejection, ResourceKey
from model.tables import (
    AcceptedRow,
    ApprovalRow,
    CanaryRow,
    CertificateRow,
    HeartbeatRow,
    ProxyRow,
    RejectionRow,
    ReplicaRow,
    RolloutOverrideRow,
    RolloutRow,
    SyncRow,
)
from model.unit_of_work import UnitOfWork
from model.world import Kind, key_of

_ROLLOUT_LOCK = 0x726F_6C6C  # "roll"
REPLICA_DEAD_AFTER_S = 10
"""A replica of the xDS server that did not refresh its row for this long is dead: it has no canaries and no streams."""


@dataclass(frozen=True, slots=True)
class AcceptedChangeSet:
    """A change-set that a group's canaries accepted, or any of its proxies when it has no canaries.

    `wanted` maps a resource to its version and bytes; None: the resource is removed. `revision` is that of the World on which the
    decision is based. `approved_fleet` is the fleet whose approval to shrink the change-set uses up, and `overrides` are the
    operators' orders that it carries out.
    """

    group: str
    change_set: str
    wanted: Mapping[ResourceKey, tuple[str, bytes] | None]
    canaries: frozenset[UUID]
    revision: int
    approved_fleet: UUID | None = None
    overrides: frozenset[UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class TriedChangeSet:
    """A change-set that is not released: who gets it (`canaries`, `nobody` or `everybody`), and why."""

    change_set: str
    given_to: str
    reason: str
    canaries: tuple[UUID, ...]
    resources: tuple[tuple[str, str, str | None], ...]
    """Type URL, name and version; None: the resource is to be removed."""
    rejected: bool = False
    """True if proxies rejected a version of it."""


@dataclass(frozen=True, slots=True)
class GroupRollout:
    """The open rollouts of a group."""

    group: str
    fleet_id: UUID
    change_sets: tuple[TriedChangeSet, ...]


async def lock(session: AsyncSession) -> None:
    """Lock the rollout state until the transaction ends, so that each replica sees the writes of the others."""
    await session.execute(text(f"SELECT pg_advisory_xact_lock({_ROLLOUT_LOCK})"))


async def claim_canaries(
    session: AsyncSession, group: str, replica: UUID, candidates: Sequence[UUID], *, shared_out: bool
) -> frozenset[UUID]:
    """Make proxies of a replica the canaries of a group, and return the replica's canaries of that group.

    With `shared_out` each replica has canaries. Otherwise a group has canaries at one replica only: the first that claims some
    while no other living replica has any.
    """
    await lock(session)
    await _register_replica(session, replica)
    alive = select(col(ReplicaRow.id)).where(is_alive())
    of_dead_replica = col(CanaryRow.replica).not_in(alive) & (col(CanaryRow.replica) != replica)
    await session.execute(delete(CanaryRow).where(col(CanaryRow.group) == group, of_dead_replica))
    taken = (await session.execute(select(CanaryRow).where(col(CanaryRow.group) == group))).scalars().all()
    own = {row.proxy_id for row in taken if row.replica == replica}
    if not shared_out and len(own) < len(taken):
        return frozenset(own)
    rows = [{"group": group, "proxy_id": proxy, "replica": replica} for proxy in candidates]
    if rows:
        statement = insert(CanaryRow).on_conflict_do_nothing().returning(col(CanaryRow.proxy_id))
        own.update((await session.execute(statement, rows)).scalars())
    return frozenset(own)


async def remove_canaries(session: AsyncSession, group: str, replica: UUID, proxies: Iterable[UUID]) -> None:
    """Remove canaries of a group at one replica."""
    of_replica = delete(CanaryRow).where(col(CanaryRow.group) == group, col(CanaryRow.replica) == replica)
    await session.execute(of_replica.where(col(CanaryRow.proxy_id).in_(list(proxies))))


async def release(unit: UnitOfWork, due: Sequence[AcceptedChangeSet], now: datetime) -> Sequence[AcceptedChangeSet]:
    """Make change-sets the stable versions of their groups, and return those that were released.

    A change-set is not released when its group's state has changed since the World on which it is based, by a rejection for
    example, or while canaries at another replica have not accepted it. The caller tries again.
    """
    await lock(unit.session)
    changed_at = await _changed_at(unit.session, min((each.revision for each in due), default=0))
    released = [
        each
        for each in due
        if changed_at.get(each.group, 0) <= each.revision and await _may_be_released(unit.session, each)
    ]
    rows, gone = [], []
    for each in released:
        for key, content in each.wanted.items():
            unit.touch(Kind.ACCEPTED, key)
            if content is None:
                gone.append(_is_resource(key))
            else:
                version, body = content
                rows.append(
                    {"group": key.group, "type_url": key.type_url, "name": key.name, "version": version, "body": body}
                    | {"at": now}
                )
        if each.approved_fleet is not None:
            await withdraw_approval(unit, each.approved_fleet)
    await _delete_overrides(unit, {id_ for each in released for id_ in each.overrides})
    if rows:
        statement = insert(AcceptedRow)
        fields = {name: statement.excluded[name] for name in ("version", "body", "at")}
        await unit.session.execute(
            statement.on_conflict_do_update(index_elements=["group", "type_url", "name"], set_=fields), rows
        )
    for start in range(0, len(gone), 1000):
        await unit.session.execute(delete(AcceptedRow).where(or_(*gone[start : start + 1000])))
    return released


async def _changed_at(session: AsyncSession, after: int) -> Mapping[str, int]:
    """Return the newest revision after `after` with an accepted or rejected resource, by group."""
    found = text(
        'SELECT key::jsonb ->> 0 AS "group", max(revision) AS revision FROM change'
        " WHERE revision > :after AND kind IN (:accepted, :rejection) GROUP BY 1"
    )
    given = {"after": after, "accepted": Kind.ACCEPTED.value, "rejection": Kind.REJECTION.value}
    return {row.group: row.revision for row in (await session.execute(found, given)).all()}


async def _may_be_released(session: AsyncSession, release: AcceptedChangeSet) -> bool:
    if not release.canaries:
        return True
    mine = [{"group": release.group, "proxy_id": proxy} for proxy in release.canaries]
    for row in mine:
        canary = await session.get(CanaryRow, (row["group"], row["proxy_id"]))
        if canary is not None:
            canary.accepted = release.change_set
    await session.flush()
    others = (
        select(func.count())
        .select_from(CanaryRow)
        .join(ReplicaRow, col(ReplicaRow.id) == col(CanaryRow.replica))
        .where(
            col(CanaryRow.group) == release.group,
            col(CanaryRow.accepted).is_distinct_from(release.change_set),
            is_alive(),
        )
    )
    return int((await session.execute(others)).scalar_one()) == 0


async def approve(unit: UnitOfWork, fleet_id: UUID) -> None:
    """Approve that the next change-set of a fleet removes more than half of its pools or exits."""
    statement = insert(ApprovalRow).values(fleet_id=fleet_id, at=func.clock_timestamp())
    made = statement.on_conflict_do_nothing().returning(col(ApprovalRow.fleet_id))
    if (await unit.session.execute(made)).first() is not None:
        unit.touch(Kind.APPROVAL, fleet_id, "created", fleet_id=fleet_id)


async def withdraw_approval(unit: UnitOfWork, fleet_id: UUID) -> None:
    """Remove an approval, because it was used up or withdrawn."""
    gone = delete(ApprovalRow).where(col(ApprovalRow.fleet_id) == fleet_id).returning(col(ApprovalRow.fleet_id))
    if (await unit.session.execute(gone)).first() is not None:
        unit.touch(Kind.APPROVAL, fleet_id, "deleted", fleet_id=fleet_id)


async def override(unit: UnitOfWork, fleet_id: UUID, group: str, change_set: str, now: datetime) -> None:
    """Order that a change-set of a fleet's group is released to all proxies. A repeated order changes nothing."""
    statement = insert(RolloutOverrideRow).values(
        id=uuid4(), fleet_id=fleet_id, group=group, change_set=change_set, at=now
    )
    made = statement.on_conflict_do_nothing().returning(col(RolloutOverrideRow.id))
    id_ = (await unit.session.execute(made)).scalar_one_or_none()
    if id_ is not None:
        detail = {"group": group, "change_set": change_set}
        unit.touch(Kind.OVERRIDE, id_, "created", fleet_id=fleet_id, detail=detail)


async def prune_overrides(unit: UnitOfWork, before: datetime) -> None:
    """Delete orders from before a time, whose change-sets were replaced by others."""
    old = select(col(RolloutOverrideRow.id)).where(col(RolloutOverrideRow.at) < before)
    await _delete_overrides(unit, (await unit.session.execute(old)).scalars().all())


async def _delete_overrides(unit: UnitOfWork, ids: Collection[UUID]) -> None:
    if not ids:
        return
    gone = delete(RolloutOverrideRow).where(col(RolloutOverrideRow.id).in_(ids)).returning(RolloutOverrideRow)
    for row in (await unit.session.execute(gone)).scalars():
        unit.touch(Kind.OVERRIDE, row.id, "deleted", fleet_id=row.fleet_id)


async def is_approved(session: AsyncSession, fleet_id: UUID) -> bool:
    """Tell whether a fleet has an approval to shrink."""
    return await session.get(ApprovalRow, fleet_id) is not None


async def store_rollouts(
    session: AsyncSession, rollouts: Sequence[GroupRollout], settled: Collection[str], now: datetime
) -> None:
    """Store the open rollouts of groups for the API, and delete those of `settled` groups. An unchanged row keeps its time.

    The canaries that are stored are those of all replicas.
    """
    groups = list(settled)
    for start in range(0, len(groups), 1000):
        await session.execute(delete(RolloutRow).where(col(RolloutRow.group).in_(groups[start : start + 1000])))
    if not rollouts:
        return
    canaries: dict[str, list[str]] = {}
    of_groups = select(CanaryRow).where(col(CanaryRow.group).in_([each.group for each in rollouts]))
    for row in (await session.execute(of_groups)).scalars():
        canaries.setdefault(row.group, []).append(str(row.proxy_id))
    rows = [
        {
            "group": each.group,
            "fleet_id": each.fleet_id,
            "change_sets": _as_json(each.change_sets, sorted(canaries.get(each.group, ()))),
            "at": now,
        }
        for each in sorted(rollouts, key=lambda rollout: rollout.group)
    ]
    statement = insert(RolloutRow)
    fields = {name: statement.excluded[name] for name in ("fleet_id", "change_sets", "at")}
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=["group"],
            set_=fields,
            where=statement.excluded["change_sets"] != col(RolloutRow.change_sets),
        ),
        rows,
    )


def _as_json(change_sets: Sequence[TriedChangeSet], canaries: Sequence[str]) -> list[dict[str, Any]]:
    return [
        asdict(each)
        | {"canaries": canaries if each.given_to == "canaries" else [], "resources": [*map(list, each.resources)]}
        for each in change_sets
    ]


async def rollouts_of(session: AsyncSession, fleet_id: UUID) -> Sequence[RolloutRow]:
    """Return the open rollouts of a fleet, by group."""
    query = select(RolloutRow).where(col(RolloutRow.fleet_id) == fleet_id).order_by(col(RolloutRow.group))
    return (await session.execute(query)).scalars().all()


async def all_rollouts(session: AsyncSession) -> Sequence[RolloutRow]:
    """Return the open rollouts of all groups."""
    return (await session.execute(select(RolloutRow))).scalars().all()


async def any_rejected(session: AsyncSession) -> bool:
    """Tell whether any rejection is stored. The session's transaction must have begun."""
    (row,) = await fetch_in(session, "SELECT EXISTS (SELECT FROM proxy_rejection) AS rejected")
    return bool(row["rejected"])


async def outvoted_rejections(session: AsyncSession) -> Sequence[RejectionRow]:
    """Return the rejections of versions that their groups accepted, newest first."""
    released = and_(
        *(
            col(getattr(AcceptedRow, name)) == col(getattr(RejectionRow, name))
            for name in ("group", "type_url", "name", "version")
        )
    )
    query = select(RejectionRow).join(AcceptedRow, released).order_by(col(RejectionRow.at).desc())
    return (await session.execute(query)).scalars().all()


async def refresh_replica(
    session: AsyncSession, replica: UUID, revision: int, metrics_address: str | None = None
) -> bool:
    """Record that a replica of the xDS server lives, and the revision up to which it has published to its streams.

    Return False when the replica had no row: others may have removed its streams and canaries.
    """
    statement = insert(ReplicaRow).values(
        id=replica, revision=revision, seen_at=func.clock_timestamp(), metrics_address=metrics_address
    )
    fields = {name: statement.excluded[name] for name in ("revision", "seen_at", "metrics_address")}
    refreshed = statement.on_conflict_do_update(index_elements=["id"], set_=fields).returning(text("xmax <> 0"))
    return bool((await session.execute(refreshed)).scalar_one())


async def _register_replica(session: AsyncSession, replica: UUID) -> None:
    """Record that a replica lives before its first refresh. Otherwise another one would remove its canaries."""
    statement = insert(ReplicaRow).values(id=replica, revision=0, seen_at=func.clock_timestamp())
    seen = {"seen_at": statement.excluded["seen_at"]}
    await session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=seen))


async def remove_replica(session: AsyncSession, replica: UUID) -> None:
    """Remove a replica that shuts down, with its canaries."""
    await session.execute(delete(CanaryRow).where(col(CanaryRow.replica) == replica))
    await session.execute(delete(ReplicaRow).where(col(ReplicaRow.id) == replica))


def is_alive() -> Any:
    """Return the condition for a living replica."""
    return col(ReplicaRow.seen_at) > func.clock_timestamp() - text(f"interval '{REPLICA_DEAD_AFTER_S} seconds'")


def _is_resource(key: ResourceKey) -> Any:
    return and_(
        col(AcceptedRow.group) == key.group,
        col(AcceptedRow.type_url) == key.type_url,
        col(AcceptedRow.name) == key.name,
    )


async def record_rejection(unit: UnitOfWork, rejection: Rejection, now: datetime) -> None:
    """Record a proxy's first rejection of a version. It makes a revision, because rollouts of that version change.

    That of a proxy that was removed is dropped. One that is about to be removed stays until the transaction ends, and then takes
    the rejection along.
    """
    key = rejection.key
    if rejection.proxy_id != VALIDATOR:
        proxy = (
            select(col(ProxyRow.id))
            .where(col(ProxyRow.id) == rejection.proxy_id)
            .with_for_update(key_share=True, read=True)
        )
        if (await unit.session.execute(proxy)).first() is None:
            return
    statement = insert(RejectionRow).values(
        group=key.group,
        type_url=key.type_url,
        name=key.name,
        version=rejection.version,
        proxy_id=rejection.proxy_id,
        detail=rejection.detail,
        at=now,
    )
    kept = statement.on_conflict_do_nothing().returning(col(RejectionRow.version))
    if (await unit.session.execute(kept)).first() is None:
        return
    unit.touch(Kind.REJECTION, key_of(rejection))
    # snapshots fall back to the accepted version, so replicas read it together with the rejection
    unit.touch(Kind.ACCEPTED, key)


async def forget_rejections(unit: UnitOfWork, *which: ColumnElement[bool]) -> None:
    """Delete rejections."""
    for row in (await unit.session.execute(delete(RejectionRow).where(*which).returning(RejectionRow))).scalars():
        key = ResourceKey(row.group, row.type_url, row.name)
        unit.touch(Kind.REJECTION, (key, row.version, row.proxy_id))


async def forget_rejections_by(unit: UnitOfWork, proxy_id: UUID) -> None:
    """Delete the rejections of a proxy that is removed."""
    await forget_rejections(unit, col(RejectionRow.proxy_id) == proxy_id)


async def forget_rejections_of_absent(unit: UnitOfWork, *, since: datetime, now: datetime) -> None:
    """Delete the rejections of proxies that are gone: with expired certificates, or not connected `since` a time.

    One that comes back is asked again, and may reject again.
    """
    of_proxy = col(RejectionRow.proxy_id)
    certificates = exists().where(col(CertificateRow.proxy_id) == of_proxy)
    valid = certificates.where(col(CertificateRow.expires_at) > now)
    connected = exists().where(col(SyncRow.proxy_id) == of_proxy, col(SyncRow.replica).is_not(None))
    heard = exists().where(col(HeartbeatRow.proxy_id) == of_proxy, col(HeartbeatRow.heard_at) >= since)
    absent = and_(~connected, ~heard, col(RejectionRow.at) < since)
    gone = or_(and_(certificates, ~valid), absent)
    await forget_rejections(unit, of_proxy != VALIDATOR, gone)


async def rejections_by(session: AsyncSession, proxy_id: UUID | None = None) -> Sequence[RejectionRow]:
    """Return the versions that a proxy (None: any) rejected, newest first."""
    query = select(RejectionRow).order_by(col(RejectionRow.at).desc())
    if proxy_id is not None:
        query = query.where(col(RejectionRow.proxy_id) == proxy_id)
    return (await session.execute(query)).scalars().all()
