"""The declared state: fleets and everything in them.

Reads take a session, writes a unit of work (which becomes a revision). References are ids or names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, Select, and_, delete, func, inspect, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.util import identity_key
from sqlmodel import SQLModel, col

from model.database import fetch_in
from model.entities import FIRST_LISTENER, Role
from model.exit_states import SERVING
from model.tables import (
    ExitRow,
    FleetRow,
    ListenerRow,
    PlanRow,
    PoolRow,
    ProxyRow,
    RoutePoolRow,
    RouteRow,
    ServerCertificateRow,
    UserRow,
)
from model.unit_of_work import UnitOfWork
from model.world import Kind

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
_REDACTED: Mapping[Kind, frozenset[str]] = {
    Kind.EXIT: frozenset({"parent_password"}),
    Kind.SERVER_CERTIFICATE: frozenset({"key", "chain"}),
    Kind.USER: frozenset({"name", "group", "secrets"}),  # personal data
}
"""Fields whose values are left out of events and the audit."""


_REFS_AT_ONCE: Final = 10_000
"""PostgreSQL takes 32,767 parameters in a statement, and each reference is two at most."""


async def save(unit: UnitOfWork, row: Row, fleet_id: UUID | None = None) -> Row:
    """Add a row, or save a changed one. `fleet_id` is the fleet of a row without a column for it.

    Raises sqlalchemy.exc.IntegrityError, with the constraint's name, when it clashes with another.
    """
    is_new = not inspect(row).persistent
    unit.session.add(row)
    await unit.flush()
    detail = _redacted(row, row.model_dump(mode="json")) if is_new else {}
    _touch(unit, row, "created" if is_new else "changed", fleet_id, detail)
    return row


async def save_changes(unit: UnitOfWork, row: Row, fields: Mapping[str, Any], fleet_id: UUID | None = None) -> None:
    """Give a row new values. A row that has them already is not touched, so it makes no revision."""
    changed = {name: value for name, value in fields.items() if getattr(row, name) != value}
    if not changed:
        return
    before = row.model_dump(mode="json", include=set(changed))
    for name, value in changed.items():
        setattr(row, name, value)
    await unit.flush()
    after = row.model_dump(mode="json", include=set(changed))
    pairs = _redacted(row, {name: [before[name], after[name]] for name in changed})
    _touch(unit, row, "changed", fleet_id, {"name": _name_of(row), "changes": pairs})


async def remove(unit: UnitOfWork, row: Row, fleet_id: UUID | None = None) -> None:
    """Remove a row. Raises sqlalchemy.exc.IntegrityError while others refer to it."""
    _touch(unit, row, "deleted", fleet_id, {"name": _name_of(row)})
    await unit.session.delete(row)
    await unit.flush()


def _touch(unit: UnitOfWork, row: AnyRow, action: str, fleet_id: UUID | None, detail: Mapping[str, Any]) -> None:
    fleet = row.id if isinstance(row, FleetRow) else fleet_id or getattr(row, "fleet_id", None)
    unit.touch(KINDS[type(row)], row.id, action, fleet_id=fleet, detail=detail)


def _name_of(row: AnyRow) -> str | None:
    return None if isinstance(row, UserRow) else row.name


def _redacted(row: AnyRow, fields: Mapping[str, Any]) -> dict[str, Any]:
    hidden = _REDACTED.get(KINDS[type(row)], frozenset())
    return {name: None if name in hidden else value for name, value in fields.items()}


async def lock(session: AsyncSession, table: type[Row], row_id: UUID) -> Row | None:
    """Lock a row until the transaction ends, and return it as it is now; None when it is gone."""
    return await session.get(table, row_id, with_for_update=True, populate_existing=True)


async def find_fleet(session: AsyncSession, ref: str) -> FleetRow | None:
    """Find a fleet by its name or id. By id, a fleet that the session has loaded takes no statement."""
    fleet_id = _as_id(ref)
    if fleet_id is not None:
        return await session.get(FleetRow, fleet_id)
    return (await session.execute(select(FleetRow).where(col(FleetRow.name) == ref))).scalar_one_or_none()


async def get_fleet(session: AsyncSession, fleet_id: UUID) -> FleetRow:
    """Get the fleet with an id that another row refers to. One that the session has loaded takes no statement."""
    return await session.get_one(FleetRow, fleet_id)


async def fleet_names(session: AsyncSession, fleet_ids: Iterable[UUID]) -> dict[UUID, str]:
    """Return the names of fleets by id. The session's transaction must have begun."""
    rows = await fetch_in(session, "SELECT id, name FROM fleet WHERE id = ANY($1)", [*fleet_ids])
    return {row["id"]: row["name"] for row in rows}


async def listeners_of(session: AsyncSession, fleet_id: UUID) -> Sequence[ListenerRow]:
    """Return the listeners of a fleet, by name."""
    query = select(ListenerRow).where(col(ListenerRow.fleet_id) == fleet_id).order_by(col(ListenerRow.name))
    return (await session.execute(query)).scalars().all()


async def first_listeners(session: AsyncSession, fleet_ids: Iterable[UUID]) -> dict[UUID, ListenerRow]:
    """Return the first listeners of fleets, by fleet id."""
    query = select(ListenerRow).where(col(ListenerRow.fleet_id).in_(fleet_ids), col(ListenerRow.name) == FIRST_LISTENER)
    return {row.fleet_id: row for row in (await session.execute(query)).scalars()}


async def lock_first_listener(session: AsyncSession, fleet_id: UUID) -> ListenerRow | None:
    """Lock the first listener of a fleet, and return it as it is now."""
    row = (await first_listeners(session, [fleet_id])).get(fleet_id)
    return row and await lock(session, ListenerRow, row.id)


async def pools_matching(
    session: AsyncSession, ref: str, *, fleet: str | None = None
) -> Sequence[tuple[PoolRow, FleetRow]]:
    """Find the pools that `ref` may mean, with their fleets; several when fleets share the name.

    By id, a pool that the session has loaded with its fleet takes no statement.
    """
    pool_id = _as_id(ref)
    if pool_id is not None:
        found = (await pools_by_id(session, [pool_id])).get(pool_id)
        return [found] if found and (fleet is None or fleet in (found[1].name, str(found[1].id))) else []
    query = select(PoolRow, FleetRow).join(FleetRow, col(FleetRow.id) == col(PoolRow.fleet_id))
    query = query.where(col(PoolRow.name) == ref).order_by(col(FleetRow.name), col(PoolRow.name))
    if fleet is not None:
        query = query.where(_matches(FleetRow, fleet))
    return [(pool, owner) for pool, owner in (await session.execute(query)).all()]


async def pools_by_id(session: AsyncSession, pool_ids: Iterable[UUID]) -> dict[UUID, tuple[PoolRow, FleetRow]]:
    """Read pools with their fleets, by id. Those that the session has loaded take no statement."""
    found: dict[UUID, tuple[PoolRow, FleetRow]] = {}
    missing = []
    for pool_id in pool_ids:
        pool = _loaded(session, PoolRow, pool_id)
        fleet = None if pool is None else _loaded(session, FleetRow, pool.fleet_id)
        if pool is not None and fleet is not None:
            found[pool_id] = (pool, fleet)
        else:
            missing.append(pool_id)
    if missing:
        query = select(PoolRow, FleetRow).join(FleetRow, col(FleetRow.id) == col(PoolRow.fleet_id))
        rows = (await session.execute(query.where(col(PoolRow.id).in_(missing)))).all()
        found |= {pool.id: (pool, fleet) for pool, fleet in rows}
    return found


async def owners_of_exits(session: AsyncSession, pool_ids: Iterable[UUID]) -> dict[UUID, dict[str, Any]]:
    """Return the names, ids and country of pools and their fleets, by pool id. The session's transaction must have begun."""
    statement = """
        SELECT pool.id AS pool_id, pool.name AS pool, pool.country, fleet.name AS fleet, fleet.id AS fleet_id
        FROM pool JOIN fleet ON fleet.id = pool.fleet_id WHERE pool.id = ANY($1)
    """
    return {row["pool_id"]: {**row} for row in await fetch_in(session, statement, [*pool_ids])}


def pool_ids_in(country: str) -> Select[UUID]:
    """Return a subquery for the ids of a country's pools."""
    return select(col(PoolRow.id)).where(col(PoolRow.country) == country)


def serving_in(country: str) -> ColumnElement[bool]:
    """Return a condition for exits that serve in pools of a country."""
    return and_(
        col(ExitRow.state).in_(SERVING),
        col(ExitRow.endpoint).is_not(None),
        col(ExitRow.pool_id).in_(pool_ids_in(country)),
    )


def fleet_of_exit() -> ScalarSelect[UUID]:
    """Return a subquery for the fleet id of the enclosing query's exit."""
    return select(col(PoolRow.fleet_id)).where(col(PoolRow.id) == col(ExitRow.pool_id)).scalar_subquery()


async def find_named(session: AsyncSession, table: type[Row], fleet_id: UUID, ref: str) -> Row | None:
    """Find a row of a fleet by its name or id, in a table whose names are unique within a fleet.

    By id, a row that the session has loaded takes no statement.
    """
    named: Any = table
    row_id = _as_id(ref)
    if row_id is not None:
        row: Any = await session.get(named, row_id)
        return row if row is not None and row.fleet_id == fleet_id else None
    query = select(table).where(col(named.fleet_id) == fleet_id, col(named.name) == ref)
    return (await session.execute(query)).scalar_one_or_none()


async def load_named(
    session: AsyncSession, table: type[Row], fleet_ids: Collection[UUID], refs: Collection[str]
) -> list[Row]:
    """Load the rows of some fleets that have one of these names or ids, in few statements.

    While the caller keeps them, lookups by id in the same session find them without a statement.
    """
    named: Any = table
    wanted = sorted(refs)
    found: list[Row] = []
    for start in range(0, len(wanted), _REFS_AT_ONCE):
        chunk = wanted[start : start + _REFS_AT_ONCE]
        ids = [row_id for row_id in map(_as_id, chunk) if row_id is not None]
        query = select(table).where(
            col(named.fleet_id).in_(fleet_ids), or_(col(named.name).in_(chunk), col(named.id).in_(ids))
        )
        found += (await session.execute(query)).scalars()
    return found


def ids_of(table: type[Row], ref: str) -> Select[UUID]:
    """Return a subquery for the ids of the rows that `ref` matches."""
    named: Any = table
    return select(col(named.id)).where(_matches(named, ref))


async def names_of(session: AsyncSession, table: type[Row], ids: Collection[UUID]) -> dict[UUID, str]:
    """Return the names of rows by id."""
    if not ids:
        return {}
    named: Any = table
    query = select(col(named.id), col(named.name)).where(col(named.id).in_(ids))
    return {row.id: row.name for row in (await session.execute(query)).all()}


async def set_pools_of_route(session: AsyncSession, route_id: UUID, wanted: Iterable[UUID]) -> None:
    """Store the pools that a route leads to, so that none of them can be removed."""
    await session.execute(delete(RoutePoolRow).where(col(RoutePoolRow.route_id) == route_id))
    session.add_all(RoutePoolRow(route_id=route_id, pool_id=pool_id) for pool_id in wanted)
    await session.flush()


async def find_exit_named(session: AsyncSession, pool_id: UUID, name: str) -> ExitRow | None:
    """Find an exit of a pool by its name."""
    query = select(ExitRow).where(col(ExitRow.pool_id) == pool_id, col(ExitRow.name) == name)
    return (await session.execute(query)).scalar_one_or_none()


async def find_proxy(session: AsyncSession, proxy_id: UUID) -> ProxyRow | None:
    """Find a proxy by its id."""
    return await session.get(ProxyRow, proxy_id)


async def proxies_of_fleet(session: AsyncSession, fleet_id: UUID, among: Collection[UUID]) -> frozenset[UUID]:
    """Return those of some proxies that belong to a fleet."""
    if not among:
        return frozenset()
    query = select(col(ProxyRow.id)).where(col(ProxyRow.fleet_id) == fleet_id, col(ProxyRow.id).in_(among))
    return frozenset((await session.execute(query)).scalars())


async def find_proxy_named(session: AsyncSession, fleet_id: UUID, role: Role, name: str) -> ProxyRow | None:
    """Find a proxy of a fleet by its role and name."""
    query = select(ProxyRow).where(
        col(ProxyRow.fleet_id) == fleet_id, col(ProxyRow.role) == role, col(ProxyRow.name) == name
    )
    return (await session.execute(query)).scalar_one_or_none()


def _as_id(ref: str) -> UUID | None:
    try:
        return UUID(ref)
    except ValueError:
        return None


def _loaded(session: AsyncSession, table: type[Row], row_id: UUID) -> Row | None:
    """The row that the session holds with its values; None when it would have to ask PostgreSQL."""
    row: Row | None = session.identity_map.get(identity_key(table, row_id))
    return None if row is None or inspect(row).expired else row


def _matches(table: Any, ref: str) -> ColumnElement[bool]:
    try:
        return or_(col(table.id) == UUID(ref), col(table.name) == ref)
    except ValueError:
        return col(table.name) == ref


@dataclass(frozen=True, slots=True)
class PoolOffer:
    """The numbers of pools and serving exits of a fleet."""

    pools: int
    exits: int
    """Serving exits with a resolved endpoint."""


async def offer_of(session: AsyncSession, fleet_id: UUID) -> PoolOffer:
    """Count the pools and the serving exits of a fleet."""
    pools = select(func.count()).select_from(PoolRow).where(col(PoolRow.fleet_id) == fleet_id)
    exits = (
        select(func.count())
        .select_from(ExitRow)
        .join(PoolRow, col(PoolRow.id) == col(ExitRow.pool_id))
        .where(
            col(PoolRow.fleet_id) == fleet_id,
            col(ExitRow.state).in_(SERVING),
            col(ExitRow.endpoint).is_not(None),
        )
    )
    row = (await session.execute(select(pools.scalar_subquery(), exits.scalar_subquery()))).one()
    return PoolOffer(pools=row[0], exits=row[1])
