"""What proxies answered: the released and the rejected versions (rollout state), and each proxy's sync status."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import and_, delete, func, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.database import fetch_in
from model.entities import Rejection, ResourceKey
from model.tables import (
    AcceptedRow,
    ApprovalRow,
    CanaryRow,
    RejectionRow,
    ReplicaRow,
    RolloutRow,
)
from model.unit_of_work import UnitOfWork
from model.world import Kind

_ROLLOUT_LOCK = 0x726F_6C6C  # "roll"
REPLICA_DEAD_AFTER_S = 10
"""A replica of the xDS server that did not say for this long that it lives has no canaries and no streams."""


@dataclass(frozen=True, slots=True)
class AcceptedChangeSet:
    """A change-set of a group that was accepted by its canaries, or by anybody where there are none.

    `wanted` is version and bytes by resource, None for what is gone; `revision` is of the World by which that was judged.
    `approved_fleet` is the fleet whose approval to shrink it uses up.
    """

    group: str
    change_set: str
    wanted: Mapping[ResourceKey, tuple[str, bytes] | None]
    canaries: frozenset[UUID]
    revision: int
    approved_fleet: UUID | None = None


@dataclass(frozen=True, slots=True)
class TriedChangeSet:
    """A change-set that is not with everybody: who is given it (`canaries`, `nobody`), and why."""

    change_set: str
    given_to: str
    reason: str
    canaries: tuple[UUID, ...]
    resources: tuple[tuple[str, str, str | None], ...]
    """Type URL, name and version; None for what is to go."""


@dataclass(frozen=True, slots=True)
class GroupRollout:
    """What of a group is not settled."""

    group: str
    fleet_id: UUID
    change_sets: tuple[TriedChangeSet, ...]


async def lock(session: AsyncSession) -> None:
    """Let one replica at a time change the rollout state, so that each sees what the others wrote before it."""
    await session.execute(text(f"SELECT pg_advisory_xact_lock({_ROLLOUT_LOCK})"))


async def claim_canaries(
    session: AsyncSession, group: str, replica: UUID, candidates: Sequence[UUID], *, shared_out: bool
) -> frozenset[UUID]:
    """Make these proxies of a replica the canaries of a group; gives those that it has then.

    Unless they are `shared_out`, so that each replica has some, a group has canaries at one replica only: the first that
    asks while no other that lives has any.
    """
    await lock(session)
    await _live(session, replica)
    living = select(col(ReplicaRow.id)).where(is_alive())
    of_the_dead = col(CanaryRow.replica).not_in(living) & (col(CanaryRow.replica) != replica)
    await session.execute(delete(CanaryRow).where(col(CanaryRow.group) == group, of_the_dead))
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
    """These are canaries of a group at this replica no more."""
    of_replica = delete(CanaryRow).where(col(CanaryRow.group) == group, col(CanaryRow.replica) == replica)
    await session.execute(of_replica.where(col(CanaryRow.proxy_id).in_(list(proxies))))


async def release(unit: UnitOfWork, due: Sequence[AcceptedChangeSet], now: datetime) -> Sequence[AcceptedChangeSet]:
    """Make change-sets what their groups accepted last; gives those that were released.

    Not released is what somebody rejected meanwhile, what was judged by a World that does not know yet what its group is
    settled at now, and what canaries at another replica have not accepted yet: they are asked for again, until they have.
    """
    await lock(unit.session)
    settled_at = await _settled_at(unit.session, min((each.revision for each in due), default=0))
    released = [
        each
        for each in due
        if settled_at.get(each.group, 0) <= each.revision and await _may_be_released(unit.session, each)
    ]
    rows, gone = [], []
    for each in released:
        for key, content in each.wanted.items():
            unit.touch(Kind.ACCEPTED, key)
            if content is None:
                gone.append(_where_is(key))
            else:
                version, body = content
                rows.append(
                    {"group": key.group, "type_url": key.type_url, "name": key.name, "version": version, "body": body}
                    | {"at": now}
                )
        if each.approved_fleet is not None:
            await withdraw_approval(unit, each.approved_fleet)
    if rows:
        statement = insert(AcceptedRow)
        fields = {name: statement.excluded[name] for name in ("version", "body", "at")}
        await unit.session.execute(
            statement.on_conflict_do_update(index_elements=["group", "type_url", "name"], set_=fields), rows
        )
    for start in range(0, len(gone), 1000):
        await unit.session.execute(delete(AcceptedRow).where(or_(*gone[start : start + 1000])))
    return released


async def _settled_at(session: AsyncSession, after: int) -> Mapping[str, int]:
    """The newest revisions later than `after` in which something of a group was accepted or rejected, by group."""
    found = text(
        'SELECT key::jsonb ->> 0 AS "group", max(revision) AS revision FROM change'
        " WHERE revision > :after AND kind IN (:accepted, :rejection) GROUP BY 1"
    )
    given = {"after": after, "accepted": Kind.ACCEPTED.value, "rejection": Kind.REJECTION.value}
    return {row.group: row.revision for row in (await session.execute(found, given)).all()}


async def _may_be_released(session: AsyncSession, release: AcceptedChangeSet) -> bool:
    versions = {(key.type_url, key.name, content[0]) for key, content in release.wanted.items() if content}
    rejected = select(col(RejectionRow.type_url), col(RejectionRow.name), col(RejectionRow.version)).where(
        col(RejectionRow.group) == release.group
    )
    if versions & {(row.type_url, row.name, row.version) for row in (await session.execute(rejected)).all()}:
        return False
    if not release.canaries:
        return True
    mine = [{"group": release.group, "proxy_id": proxy} for proxy in release.canaries]
    for row in mine:
        held = await session.get(CanaryRow, (row["group"], row["proxy_id"]))
        if held is not None:
            held.accepted = release.change_set
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
    """Let the next change-set of a fleet take more than half of what there is."""
    statement = insert(ApprovalRow).values(fleet_id=fleet_id, at=func.clock_timestamp())
    made = statement.on_conflict_do_nothing().returning(col(ApprovalRow.fleet_id))
    if (await unit.session.execute(made)).first() is not None:
        unit.touch(Kind.APPROVAL, fleet_id, "created", fleet_id=fleet_id)


async def withdraw_approval(unit: UnitOfWork, fleet_id: UUID) -> None:
    """Use an approval up, or take it back."""
    gone = delete(ApprovalRow).where(col(ApprovalRow.fleet_id) == fleet_id).returning(col(ApprovalRow.fleet_id))
    if (await unit.session.execute(gone)).first() is not None:
        unit.touch(Kind.APPROVAL, fleet_id, "deleted", fleet_id=fleet_id)


async def is_approved(session: AsyncSession, fleet_id: UUID) -> bool:
    """Whether the next change-set of a fleet may take more than half of what there is."""
    return await session.get(ApprovalRow, fleet_id) is not None


async def store_rollouts(
    session: AsyncSession, standings: Sequence[GroupRollout], gone: Collection[str], now: datetime
) -> None:
    """Write down what is not settled, for the API; `gone` are groups that are. What did not change keeps its time.

    The canaries are those of all replicas.
    """
    groups = list(gone)
    for start in range(0, len(groups), 1000):
        await session.execute(delete(RolloutRow).where(col(RolloutRow.group).in_(groups[start : start + 1000])))
    if not standings:
        return
    canaries: dict[str, list[str]] = {}
    of_groups = select(CanaryRow).where(col(CanaryRow.group).in_([each.group for each in standings]))
    for row in (await session.execute(of_groups)).scalars():
        canaries.setdefault(row.group, []).append(str(row.proxy_id))
    rows = [
        {
            "group": each.group,
            "fleet_id": each.fleet_id,
            "change_sets": _as_json(each.change_sets, sorted(canaries.get(each.group, ()))),
            "at": now,
        }
        for each in sorted(standings, key=lambda standing: standing.group)
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
    """What of a fleet is not settled, by group."""
    query = select(RolloutRow).where(col(RolloutRow.fleet_id) == fleet_id).order_by(col(RolloutRow.group))
    return (await session.execute(query)).scalars().all()


async def all_rollouts(session: AsyncSession) -> Sequence[RolloutRow]:
    """What of any group is not settled."""
    return (await session.execute(select(RolloutRow))).scalars().all()


async def any_held_back(session: AsyncSession) -> bool:
    """Whether something may be held back by a refusal. For a session whose transaction has begun."""
    (row,) = await fetch_in(session, "SELECT EXISTS (SELECT FROM rollout) AND EXISTS (SELECT FROM rejection) AS held")
    return bool(row["held"])


async def refresh_replica(session: AsyncSession, replica: UUID, revision: int) -> bool:
    """Say that a replica of the xDS server lives, and up to which revision its streams were told of all changes.

    False when it was not known to: what it wrote down of its streams and canaries may have been taken from it.
    """
    statement = insert(ReplicaRow).values(id=replica, revision=revision, seen_at=func.clock_timestamp())
    fields = {name: statement.excluded[name] for name in ("revision", "seen_at")}
    beaten = statement.on_conflict_do_update(index_elements=["id"], set_=fields).returning(text("xmax <> 0"))
    return bool((await session.execute(beaten)).scalar_one())


async def _live(session: AsyncSession, replica: UUID) -> None:
    """Say that a replica lives, also before its first beat: else another one would take its canaries for a dead one's."""
    statement = insert(ReplicaRow).values(id=replica, revision=0, seen_at=func.clock_timestamp())
    seen = {"seen_at": statement.excluded["seen_at"]}
    await session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=seen))


async def remove_replica(session: AsyncSession, replica: UUID) -> None:
    """A replica ends in order: it has no canaries and no streams any more."""
    await session.execute(delete(CanaryRow).where(col(CanaryRow.replica) == replica))
    await session.execute(delete(ReplicaRow).where(col(ReplicaRow.id) == replica))


def is_alive() -> Any:
    """Whether a replica said lately that it lives, as a condition."""
    return col(ReplicaRow.seen_at) > func.clock_timestamp() - text(f"interval '{REPLICA_DEAD_AFTER_S} seconds'")


def _where_is(key: ResourceKey) -> Any:
    return and_(
        col(AcceptedRow.group) == key.group,
        col(AcceptedRow.type_url) == key.type_url,
        col(AcceptedRow.name) == key.name,
    )


async def record_rejection(unit: UnitOfWork, rejection: Rejection, now: datetime) -> None:
    """Keep that a version was refused first by this proxy; a revision, for the snapshots that hold it change."""
    key = rejection.key
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
    unit.touch(Kind.REJECTION, (key, rejection.version))
    # the accepted version is what the snapshots fall back to: replicas read it together with the rejection
    unit.touch(Kind.ACCEPTED, key)


async def rejections_by(session: AsyncSession, proxy_id: UUID | None = None) -> Sequence[RejectionRow]:
    """The versions that a proxy (None: any) was the first of its group to refuse, newest first."""
    query = select(RejectionRow).order_by(col(RejectionRow.at).desc())
    if proxy_id is not None:
        query = query.where(col(RejectionRow.proxy_id) == proxy_id)
    return (await session.execute(query)).scalars().all()
