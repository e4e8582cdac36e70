"""The declared state: fleets with their listener, pools, exits and proxies.

Reads take a session, writes a unit (which becomes a revision). A thing is found by its id or by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, inspect, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel, col

from model.changes import Unit
from model.tables import (
    ExitRow,
    FleetRow,
    ListenerRow,
    PlanRow,
    PoolRow,
    ProxyRow,
    RouteRow,
    ServerCertificateRow,
    UserRow,
)
from model.world import ExitState, Kind, Role

Row = TypeVar(
    "Row", FleetRow, ListenerRow, PoolRow, ExitRow, ProxyRow, RouteRow, PlanRow, UserRow, ServerCertificateRow
)
AnyRow: TypeAlias = (
    FleetRow | ListenerRow | PoolRow | ExitRow | ProxyRow | RouteRow | PlanRow | UserRow | ServerCertificateRow
)

KINDS: Mapping[type[SQLModel], Kind] = {
    FleetRow: Kind.FLEET,
    ListenerRow: Kind.LISTENER,
    PoolRow: Kind.POOL,
    ExitRow: Kind.EXIT,
    ProxyRow: Kind.PROXY,
    RouteRow: Kind.ROUTE,
    PlanRow: Kind.PLAN,
    UserRow: Kind.USER,
    ServerCertificateRow: Kind.SERVER_CERTIFICATE,
}
_UNSAID: Mapping[Kind, frozenset[str]] = {
    Kind.SERVER_CERTIFICATE: frozenset({"key", "chain"}),
    Kind.USER: frozenset({"name", "group"}),  # who uses gateways is nobody's business in an audit
}
"""Fields whose values neither events nor the audit repeat."""


async def save(unit: Unit, row: Row, fleet_id: UUID | None = None) -> Row:
    """Add a row, or one that changed. `fleet_id` is that of a row that does not say it itself.

    Raises sqlalchemy.exc.IntegrityError, with the constraint's name, when it clashes with another.
    """
    is_new = not inspect(row).persistent
    unit.session.add(row)
    await unit.session.flush()
    detail = _said(row, row.model_dump(mode="json")) if is_new else {}
    _touch(unit, row, "created" if is_new else "changed", fleet_id, detail)
    return row


async def save_changes(unit: Unit, row: Row, fields: Mapping[str, Any], fleet_id: UUID | None = None) -> None:
    """Give a row new values. One that has them already is not touched, so that nothing new is no revision."""
    changed = {name: value for name, value in fields.items() if getattr(row, name) != value}
    if not changed:
        return
    before = row.model_dump(mode="json", include=set(changed))
    for name, value in changed.items():
        setattr(row, name, value)
    await unit.session.flush()
    after = row.model_dump(mode="json", include=set(changed))
    pairs = _said(row, {name: [before[name], after[name]] for name in changed})
    _touch(unit, row, "changed", fleet_id, {"name": _name_of(row), "changes": pairs})


async def remove(unit: Unit, row: Row, fleet_id: UUID | None = None) -> None:
    """Remove a row. Raises sqlalchemy.exc.IntegrityError while others refer to it."""
    _touch(unit, row, "deleted", fleet_id, {"name": _name_of(row)})
    await unit.session.delete(row)
    await unit.session.flush()


def _touch(unit: Unit, row: AnyRow, action: str, fleet_id: UUID | None, detail: Mapping[str, Any]) -> None:
    fleet = row.id if isinstance(row, FleetRow) else fleet_id or getattr(row, "fleet_id", None)
    unit.touch(KINDS[type(row)], row.id, action, fleet_id=fleet, detail=detail)


def _name_of(row: AnyRow) -> str | None:
    return None if isinstance(row, UserRow) else row.name


def _said(row: AnyRow, fields: Mapping[str, Any]) -> dict[str, Any]:
    unsaid = _UNSAID.get(KINDS[type(row)], frozenset())
    return {name: None if name in unsaid else value for name, value in fields.items()}


async def lock(session: AsyncSession, table: type[Row], row_id: UUID) -> Row | None:
    """The row as it is now, held against other writers until the transaction ends; None when it is gone."""
    return await session.get(table, row_id, with_for_update=True, populate_existing=True)


async def all_fleets(session: AsyncSession) -> Sequence[tuple[FleetRow, ListenerRow]]:
    """Every fleet with its listener, by name."""
    return [(fleet, listener) for fleet, listener in (await session.execute(_fleets())).all()]


async def find_fleet(session: AsyncSession, ref: str) -> tuple[FleetRow, ListenerRow] | None:
    """A fleet with its listener."""
    row = (await session.execute(_fleets().where(_matches(FleetRow, ref)))).first()
    return (row[0], row[1]) if row else None


async def all_pools(session: AsyncSession, *, fleet: str | None = None) -> Sequence[tuple[PoolRow, FleetRow]]:
    """Every pool with its fleet, by fleet and name."""
    query = _pools() if fleet is None else _pools().where(_matches(FleetRow, fleet))
    return [(pool, owner) for pool, owner in (await session.execute(query)).all()]


async def find_pool(
    session: AsyncSession, ref: str, *, fleet_id: UUID | None = None
) -> tuple[PoolRow, FleetRow] | None:
    """A pool with its fleet; by name it may need the fleet, for names are unique within one."""
    query = _pools().where(_matches(PoolRow, ref))
    if fleet_id is not None:
        query = query.where(col(PoolRow.fleet_id) == fleet_id)
    row = (await session.execute(query)).first()
    return (row[0], row[1]) if row else None


async def pools_matching(
    session: AsyncSession, ref: str, *, fleet: str | None = None
) -> Sequence[tuple[PoolRow, FleetRow]]:
    """The pools that `ref` may mean, with their fleets; several when it is a name that fleets share."""
    query = _pools().where(_matches(PoolRow, ref))
    if fleet is not None:
        query = query.where(_matches(FleetRow, fleet))
    return [(pool, owner) for pool, owner in (await session.execute(query)).all()]


async def all_exits(
    session: AsyncSession, *, pool: str | None = None, fleet: str | None = None
) -> Sequence[tuple[ExitRow, PoolRow, FleetRow]]:
    """Every exit with its pool and fleet, by fleet, pool and name."""
    query = _exits()
    if pool is not None:
        query = query.where(_matches(PoolRow, pool))
    if fleet is not None:
        query = query.where(_matches(FleetRow, fleet))
    return [(row, owner, top) for row, owner, top in (await session.execute(query)).all()]


async def find_exit(session: AsyncSession, exit_id: UUID) -> tuple[ExitRow, PoolRow, FleetRow] | None:
    """An exit with its pool and fleet."""
    row = (await session.execute(_exits().where(col(ExitRow.id) == exit_id))).first()
    return (row[0], row[1], row[2]) if row else None


async def find_exit_named(session: AsyncSession, pool_id: UUID, name: str) -> ExitRow | None:
    """An exit of a pool by its name."""
    query = select(ExitRow).where(col(ExitRow.pool_id) == pool_id, col(ExitRow.name) == name)
    return (await session.execute(query)).scalar_one_or_none()


async def count_exits(session: AsyncSession, pool_id: UUID) -> int:
    """How many exits a pool has."""
    return int((await session.execute(select(func.count()).where(col(ExitRow.pool_id) == pool_id))).scalar_one())


async def all_proxies(session: AsyncSession, *, fleet: str | None = None) -> Sequence[tuple[ProxyRow, FleetRow]]:
    """Every proxy with its fleet, by fleet, role and name."""
    query = select(ProxyRow, FleetRow).join(FleetRow, col(FleetRow.id) == col(ProxyRow.fleet_id))
    if fleet is not None:
        query = query.where(_matches(FleetRow, fleet))
    query = query.order_by(col(FleetRow.name), col(ProxyRow.role), col(ProxyRow.name))
    return [(proxy, owner) for proxy, owner in (await session.execute(query)).all()]


async def find_proxy(session: AsyncSession, proxy_id: UUID) -> ProxyRow | None:
    """A proxy by its id."""
    return await session.get(ProxyRow, proxy_id)


async def find_proxy_with_fleet(session: AsyncSession, proxy_id: UUID) -> tuple[ProxyRow, FleetRow] | None:
    """A proxy with its fleet."""
    query = select(ProxyRow, FleetRow).join(FleetRow, col(FleetRow.id) == col(ProxyRow.fleet_id))
    row = (await session.execute(query.where(col(ProxyRow.id) == proxy_id))).first()
    return (row[0], row[1]) if row else None


async def find_proxy_named(session: AsyncSession, fleet_id: UUID, role: Role, name: str) -> ProxyRow | None:
    """A proxy of a fleet by its role and name."""
    query = select(ProxyRow).where(
        col(ProxyRow.fleet_id) == fleet_id, col(ProxyRow.role) == role, col(ProxyRow.name) == name
    )
    return (await session.execute(query)).scalar_one_or_none()


def _fleets() -> Select[FleetRow, ListenerRow]:
    query = select(FleetRow, ListenerRow).join(ListenerRow, col(ListenerRow.fleet_id) == col(FleetRow.id))
    return query.order_by(col(FleetRow.name))


def _pools() -> Select[PoolRow, FleetRow]:
    query = select(PoolRow, FleetRow).join(FleetRow, col(FleetRow.id) == col(PoolRow.fleet_id))
    return query.order_by(col(FleetRow.name), col(PoolRow.name))


def _exits() -> Select[ExitRow, PoolRow, FleetRow]:
    query = (
        select(ExitRow, PoolRow, FleetRow)
        .join(PoolRow, col(PoolRow.id) == col(ExitRow.pool_id))
        .join(FleetRow, col(FleetRow.id) == col(PoolRow.fleet_id))
    )
    return query.order_by(col(FleetRow.name), col(PoolRow.name), col(ExitRow.name))


def _matches(table: type[FleetRow | PoolRow], ref: str) -> ColumnElement[bool]:
    try:
        return or_(col(table.id) == UUID(ref), col(table.name) == ref)
    except ValueError:
        return col(table.name) == ref


@dataclass(frozen=True, slots=True)
class Offer:
    """How much of a fleet clients can be sent to."""

    pools: int
    exits: int
    """Those that are healthy."""


async def offer_of(session: AsyncSession, fleet_id: UUID) -> Offer:
    """What a fleet offers now."""
    pools = select(func.count()).select_from(PoolRow).where(col(PoolRow.fleet_id) == fleet_id)
    exits = (
        select(func.count())
        .select_from(ExitRow)
        .join(PoolRow, col(PoolRow.id) == col(ExitRow.pool_id))
        .where(
            col(PoolRow.fleet_id) == fleet_id,
            col(ExitRow.state) == ExitState.HEALTHY,
            col(ExitRow.endpoint).is_not(None),
        )
    )
    row = (await session.execute(select(pools.scalar_subquery(), exits.scalar_subquery()))).one()
    return Offer(pools=row[0], exits=row[1])
