"""The World: one consistent read of the declared state at one revision, as frozen values.

Pure: no database, no clock, no I/O. Everything that the data plane is told is a function of a World.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeAlias
from uuid import UUID

from model.entities import (
    Accepted,
    Approval,
    Entity,
    Exit,
    Fleet,
    Listener,
    Pool,
    Proxy,
    Rejection,
    ResourceKey,
    Role,
    Route,
    ServerCertificate,
    User,
)
from model.locality import Locality


class Kind(StrEnum):
    """What a row of the change log speaks of."""

    FLEET = "fleet"
    LISTENER = "listener"
    POOL = "pool"
    EXIT = "exit"
    PROXY = "proxy"
    ROUTE = "route"
    USER = "user"
    SERVER_CERTIFICATE = "server_certificate"
    PLAN = "plan"
    """Nothing of a World: the data plane does not know plans yet."""
    ACCEPTED = "accepted"
    REJECTION = "rejection"
    APPROVAL = "approval"


Key: TypeAlias = UUID | ResourceKey | tuple[ResourceKey, str]


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Change:
    """What a change did to one thing: its new value, or None when it is gone."""

    kind: Kind
    key: Key
    value: Entity | None


def key_of(entity: Entity) -> Key:
    """The key under which a World holds `entity`."""
    match entity:
        case Accepted():
            return entity.key
        case Rejection():
            return (entity.key, entity.version)
        case Approval():
            return entity.fleet_id
        case _:
            return entity.id


_KINDS: Mapping[type, Kind] = {
    Fleet: Kind.FLEET,
    Listener: Kind.LISTENER,
    Pool: Kind.POOL,
    Exit: Kind.EXIT,
    Proxy: Kind.PROXY,
    Route: Kind.ROUTE,
    User: Kind.USER,
    ServerCertificate: Kind.SERVER_CERTIFICATE,
    Accepted: Kind.ACCEPTED,
    Rejection: Kind.REJECTION,
    Approval: Kind.APPROVAL,
}


def put(entity: Entity) -> Change:
    """The change that adds or replaces `entity`."""
    return Change(_KINDS[type(entity)], key_of(entity), entity)


@dataclass(frozen=True, slots=True)
class World:
    """All that is declared, at one revision, with the indexes that translation walks."""

    revision: int = 0
    fleets: Mapping[UUID, Fleet] = field(default_factory=_empty)
    listeners: Mapping[UUID, Listener] = field(default_factory=_empty)
    pools: Mapping[UUID, Pool] = field(default_factory=_empty)
    exits: Mapping[UUID, Exit] = field(default_factory=_empty)
    proxies: Mapping[UUID, Proxy] = field(default_factory=_empty)
    routes: Mapping[UUID, Route] = field(default_factory=_empty)
    users: Mapping[UUID, User] = field(default_factory=_empty)
    certificates: Mapping[UUID, ServerCertificate] = field(default_factory=_empty)
    accepted: Mapping[ResourceKey, Accepted] = field(default_factory=_empty)
    rejections: Mapping[tuple[ResourceKey, str], Rejection] = field(default_factory=_empty)
    approvals: Mapping[UUID, Approval] = field(default_factory=_empty)
    """By fleet id."""
    accepted_of: Mapping[str, frozenset[ResourceKey]] = field(default_factory=_empty)
    """What was accepted, by group."""
    listeners_of: Mapping[UUID, frozenset[UUID]] = field(default_factory=_empty)
    """Listener ids by fleet id."""
    pools_of: Mapping[UUID, frozenset[UUID]] = field(default_factory=_empty)
    """Pool ids by fleet id."""
    exits_of: Mapping[UUID, frozenset[UUID]] = field(default_factory=_empty)
    """Exit ids by pool id."""
    routes_of: Mapping[UUID, frozenset[UUID]] = field(default_factory=_empty)
    """Route ids by fleet id."""
    users_of: Mapping[UUID, frozenset[UUID]] = field(default_factory=_empty)
    """User ids by fleet id."""
    gateways_at: Mapping[UUID, Mapping[Locality | None, int]] = field(default_factory=_empty)
    """How many gateways stand where, by fleet id. Counts, for there may be thousands at one locality."""

    def changed(self, revision: int, changes: Iterable[Change]) -> World:
        """The World after `changes`, at `revision`; what did not change is shared with this one."""
        draft = _Draft(self)
        for change in changes:
            draft.apply(change)
        return replace(self, revision=revision, **draft.finish())


# kind -> (table, index kept beside it, attribute that the index is by)
_TABLES: Mapping[Kind, tuple[str, str | None, str]] = {
    Kind.FLEET: ("fleets", None, ""),
    Kind.LISTENER: ("listeners", "listeners_of", "fleet_id"),
    Kind.POOL: ("pools", "pools_of", "fleet_id"),
    Kind.EXIT: ("exits", "exits_of", "pool_id"),
    Kind.PROXY: ("proxies", None, ""),
    Kind.ROUTE: ("routes", "routes_of", "fleet_id"),
    Kind.USER: ("users", "users_of", "fleet_id"),
    Kind.SERVER_CERTIFICATE: ("certificates", None, ""),
    Kind.ACCEPTED: ("accepted", "accepted_of", "group"),
    Kind.REJECTION: ("rejections", None, ""),
    Kind.APPROVAL: ("approvals", None, ""),
}


class _Draft:
    """Copies each table of a World at most once while changes are applied to it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.tables: dict[str, Any] = {}
        self._open: dict[tuple[str, Any], set[Any]] = {}
        """Members of indexes that are being changed, by index and owner: each is copied once, however many changes."""

    def _table(self, name: str) -> dict[Any, Any]:
        if name not in self.tables:
            self.tables[name] = dict(getattr(self._world, name))
        table: dict[Any, Any] = self.tables[name]
        return table

    def apply(self, change: Change) -> None:
        name, index_name, owner_field = _TABLES[change.kind]
        table = self._table(name)
        old = table.pop(change.key, None)
        if change.value is not None:
            table[change.key] = change.value
        if change.kind is Kind.PROXY:
            self._count(_place(old), _place(change.value))
        if index_name is None:
            return
        if old is not None:
            self._members(index_name, getattr(old, owner_field)).discard(change.key)
        if change.value is not None:
            self._members(index_name, getattr(change.value, owner_field)).add(change.key)

    def _members(self, index_name: str, owner: Any) -> set[Any]:
        members = self._open.get((index_name, owner))
        if members is None:
            members = self._open[index_name, owner] = set(getattr(self._world, index_name).get(owner, ()))
        return members

    def finish(self) -> dict[str, Any]:
        """The tables that changed."""
        for (index_name, owner), members in self._open.items():
            index = self._table(index_name)
            if members:
                index[owner] = frozenset(members)
            else:
                index.pop(owner, None)
        return self.tables

    def _count(self, before: _Place | None, after: _Place | None) -> None:
        if before == after:
            return
        counts = self._table("gateways_at")
        for place, by in ((before, -1), (after, 1)):
            if place is None:
                continue
            fleet_id, locality = place
            there = {**counts.pop(fleet_id, {})}
            there[locality] = there.get(locality, 0) + by
            if not there[locality]:
                del there[locality]
            if there:
                counts[fleet_id] = there


_Place: TypeAlias = tuple[UUID, Locality | None]


def _place(entity: Entity | None) -> _Place | None:
    """The fleet and the locality of a gateway; None for all else."""
    return (entity.fleet_id, entity.locality) if isinstance(entity, Proxy) and entity.role is Role.GATEWAY else None
