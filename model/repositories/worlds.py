"""Reading of the World from tables: the whole, or the changes since a revision."""

from __future__ import annotations

import hmac
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import func, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel, col

from model.database import Database
from model.entities import (
    Accepted,
    Approval,
    Authentication,
    Entity,
    Exit,
    Fleet,
    Listener,
    Parent,
    Pool,
    Proxy,
    Rejection,
    ResourceKey,
    Role,
    RolloutOverride,
    Route,
    ServerCertificate,
    Tracing,
    TrustedAuthority,
    User,
    UserSecret,
)
from model.exit_states import ExitState
from model.locality import Locality
from model.stored_pools import read_balancing, read_resilience
from model.stored_routes import read_action, read_match
from model.tables import (
    AcceptedRow,
    ApprovalRow,
    AuthorityRow,
    ChangeRow,
    ExitRow,
    FleetRow,
    ListenerRow,
    PoolRow,
    ProxyRow,
    RejectionRow,
    RevisionRow,
    RolloutOverrideRow,
    RouteRow,
    ServerCertificateRow,
    TrustedAuthorityRow,
    UserRow,
)
from model.unit_of_work import decode_key
from model.world import Change, Key, Kind, World, put

Row: TypeAlias = Any
"""A row of one of the tables below; each has its own reader."""
_CHUNK = 2_000
"""Keys in one statement: PostgreSQL takes 32,767 parameters, and a key has up to five."""


def _fleet(row: Row) -> Fleet:
    return Fleet(row.id, row.name, _tracing(row.tracing))


def _tracing(stored: Mapping[str, Any] | None) -> Tracing | None:
    # fields that only a newer version alongside this one knows are left out
    return None if stored is None else Tracing(stored["share"], stored["targets"])


def _listener(row: Row) -> Listener:
    return Listener(
        id=row.id,
        fleet_id=row.fleet_id,
        address=row.address,
        port=row.port,
        name=row.name,
        country=row.country,
        pool_id=row.pool_id,
        certificate_id=row.certificate_id,
        countries_by_server_name=tuple(sorted(row.countries_by_server_name.items())),
        additional_certificates=tuple(map(UUID, row.additional_certificates)),
        minimum_tls_version=row.minimum_tls_version,
        authentication=frozenset(map(Authentication, row.authentication)),
    )


def _pool(row: Row) -> Pool:
    balancing, resilience = read_balancing(row.balancing), read_resilience(row.resilience)
    return Pool(
        id=row.id,
        fleet_id=row.fleet_id,
        name=row.name,
        country=row.country,
        city=row.city,
        only_by_name=row.only_by_name,
        balancing=balancing,
        resilience=resilience,
    )


def _route(row: Row) -> Route:
    match, action = read_match(row.match), read_action(row.action)
    return Route(row.id, row.fleet_id, row.name, row.position, row.enabled, match, action)


def _user(row: Row) -> User:
    return User(
        id=row.id,
        fleet_id=row.fleet_id,
        name=row.name,
        group=row.group,
        secrets=tuple(UserSecret(each["slot"], each["digest"]) for each in row.secrets),
        enabled=row.enabled,
        expires_at=None if row.expires_at is None else int(row.expires_at.timestamp()),
    )


def _certificate(row: Row) -> ServerCertificate:
    return ServerCertificate(row.id, row.fleet_id, row.name, row.chain, row.key)


def _authority(row: Row) -> TrustedAuthority:
    return TrustedAuthority(row.id, row.certificate)


def _exit(row: Row) -> Exit:
    return Exit(
        id=row.id,
        pool_id=row.pool_id,
        name=row.name,
        endpoint=row.endpoint,
        port=row.port,
        state=ExitState(row.state),
        bind_address=row.bind_address,
        egress_address=row.egress_address,
        locality=_locality(row),
        weight=row.weight * row.share,
        standby=row.standby,
        parent=_parent(row),
    )


def _parent(row: Row) -> Parent | None:
    if row.parent_address is None:
        return None
    return Parent(row.parent_address, row.parent_port, row.parent_username, row.parent_password)


def _proxy(row: Row) -> Proxy:
    return Proxy(row.id, row.fleet_id, row.name, Role(row.role), _locality(row), frozenset(row.replaced_certificates))


def _locality(row: Row) -> Locality | None:
    return None if row.locality is None else Locality.parse(row.locality)


def _resource(row: Row) -> ResourceKey:
    return ResourceKey(row.group, row.type_url, row.name)


def _accepted(row: Row) -> Accepted:
    return Accepted(_resource(row), row.version, row.body)


def _rejection(row: Row) -> Rejection:
    return Rejection(_resource(row), row.version, row.proxy_id, row.detail)


def _approval(row: Row) -> Approval:
    return Approval(row.fleet_id)


def _override(row: Row) -> RolloutOverride:
    return RolloutOverride(row.id, row.fleet_id, row.group, row.change_set)


_TABLES: dict[Kind, tuple[type[SQLModel], Callable[[Row], Entity]]] = {
    Kind.FLEET: (FleetRow, _fleet),
    Kind.LISTENER: (ListenerRow, _listener),
    Kind.POOL: (PoolRow, _pool),
    Kind.EXIT: (ExitRow, _exit),
    Kind.PROXY: (ProxyRow, _proxy),
    Kind.ROUTE: (RouteRow, _route),
    Kind.USER: (UserRow, _user),
    Kind.SERVER_CERTIFICATE: (ServerCertificateRow, _certificate),
    Kind.AUTHORITY: (TrustedAuthorityRow, _authority),
    Kind.ACCEPTED: (AcceptedRow, _accepted),
    Kind.REJECTION: (RejectionRow, _rejection),
    Kind.APPROVAL: (ApprovalRow, _approval),
    Kind.OVERRIDE: (RolloutOverrideRow, _override),
}


async def load(database: Database) -> World:
    """Read the whole World at one point in time."""
    async with database.session() as session:
        revision = await _begin_read(session)
        changes = [put(entity) for kind in _TABLES for entity in await _read(session, kind)]
        return World(secret_key=await _read_secret_key(session)).changed(revision, changes)


async def _read_secret_key(session: AsyncSession) -> bytes:
    """Derive the key of secrets' versions from the key of the authority, which all replicas share and no caller can read.

    Empty for a database that no control plane has used yet, which has no proxies.
    """
    key = (await session.execute(select(col(AuthorityRow.key)))).scalar_one_or_none()
    return b"" if key is None else hmac.digest(key.encode(), b"versions of secrets", "sha256")


async def catch_up(database: Database, world: World) -> tuple[World, Sequence[Change]] | None:
    """Return the present World and the changes since `world`; None when the change log has a gap and a full load is due."""
    async with database.session() as session:
        revision = await _begin_read(session)
        return await advance(session, world, revision)


class LoggedCommit(NamedTuple):
    """A revision in the change log, as all its rows have it."""

    revision: int
    at: datetime
    """The time of the commit, by the clock of the replica that made it."""
    traceparent: str | None


async def follow(database: Database, world: World) -> tuple[World, Sequence[Change], Sequence[LoggedCommit]] | None:
    """Return what `catch_up` does, and the commits that made the changes, the oldest first."""
    async with database.session() as session:
        revision = await _begin_read(session)
        return await _advance(session, world, revision)


async def advance(session: AsyncSession, world: World, revision: int) -> tuple[World, Sequence[Change]] | None:
    """Return the World at `revision`, the newest that the session sees, as `catch_up` does."""
    advanced = await _advance(session, world, revision)
    return advanced and advanced[:2]


async def _advance(
    session: AsyncSession, world: World, revision: int
) -> tuple[World, Sequence[Change], Sequence[LoggedCommit]] | None:
    if revision == world.revision:
        return world, (), ()
    log = select(
        col(ChangeRow.revision),
        col(ChangeRow.kind),
        col(ChangeRow.key),
        col(ChangeRow.at),
        col(ChangeRow.traceparent),
    )
    rows = (
        await session.execute(log.where(col(ChangeRow.revision) > world.revision).order_by(col(ChangeRow.id)))
    ).all()
    commits = {row.revision: LoggedCommit(row.revision, row.at, row.traceparent) for row in rows}
    if revision - world.revision != len(commits):
        return None  # the revision went back, or the log has lost a revision in between
    changes = await read_touched(session, [(row.kind, row.key) for row in rows])
    return world.changed(revision, changes), changes, [commits[each] for each in sorted(commits)]


async def read_touched(session: AsyncSession, entries: Iterable[tuple[str, str]]) -> list[Change]:
    """Read the present values of change-log entries (kinds and keys), as changes of a World."""
    touched: dict[Kind, dict[Key, None]] = defaultdict(dict)
    for name, key in entries:
        if name not in _TABLES:
            continue  # not part of a World, or a kind that only a newer version alongside this one knows
        kind = Kind(name)
        touched[kind][decode_key(kind, key)] = None
    changes: list[Change] = []
    for kind, keys in touched.items():
        found = {change.key: change for change in map(put, await _read(session, kind, keys))}
        changes += [found.get(key, Change(kind, key, None)) for key in keys]
    return changes


async def touched_since(
    database: Database, revision: int | None, kinds: Sequence[Kind]
) -> tuple[int, frozenset[UUID] | None]:
    """Return the newest revision, and the ids of things of these kinds that changed since `revision`.

    None instead of ids when they are unknown: the change log has a gap, or `revision` is None.
    """
    async with database.session() as session:
        newest = await _begin_read(session)
        if revision == newest:
            return newest, frozenset()
        if revision is None:
            return newest, None
        logged = select(func.count(col(ChangeRow.revision).distinct())).where(col(ChangeRow.revision) > revision)
        if (await session.execute(logged)).scalar_one() != newest - revision:
            return newest, None
        keys = select(col(ChangeRow.key)).where(col(ChangeRow.revision) > revision, col(ChangeRow.kind).in_(kinds))
        return newest, frozenset(UUID(key) for key in (await session.execute(keys)).scalars())


async def current_revision(database: Database) -> int:
    """Return the newest committed revision."""
    async with database.session() as session:
        return int((await session.execute(select(col(RevisionRow.value)))).scalar_one())


async def traceparent_of(session: AsyncSession, revision: int) -> str | None:
    """Return the trace context of the write of `revision`; None without one."""
    query = select(func.max(col(ChangeRow.traceparent))).where(col(ChangeRow.revision) == revision)
    return (await session.execute(query)).scalar_one_or_none()


async def _begin_read(session: AsyncSession) -> int:
    await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    return int((await session.execute(select(col(RevisionRow.value)))).scalar_one())


async def _read(session: AsyncSession, kind: Kind, keys: Iterable[Key] | None = None) -> list[Entity]:
    table, reader = _TABLES[kind]
    columns = table.__table__.c  # type: ignore[attr-defined]
    query = select(*columns)
    if keys is not None:
        primary = [column for column in columns if column.primary_key]
        entities: list[Entity] = []
        for chunk in _chunks([_primary_key(key) for key in keys]):
            rows = await session.execute(query.where(tuple_(*primary).in_(chunk)))
            entities += [reader(row) for row in rows.all()]
        return entities
    return [reader(row) for row in (await session.execute(query)).all()]


def _chunks(keys: list[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    for start in range(0, len(keys), _CHUNK):
        yield keys[start : start + _CHUNK]


def _primary_key(key: Key) -> tuple[Any, ...]:
    match key:
        case UUID():
            return (key,)
        case ResourceKey():
            return (key.group, key.type_url, key.name)
        case (resource, version, proxy_id):
            return (resource.group, resource.type_url, resource.name, version, proxy_id)
