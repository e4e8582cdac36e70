"""The World: one consistent read of the declared state at one revision, as frozen values.

Pure: no database, no clock, no I/O. All configuration of the data plane is a function of a World.
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
    RolloutOverride,
    Route,
    ServerCertificate,
    TrustedAuthority,
    User,
)
from model.locality import Locality


class Kind(StrEnum):
    """The kind of thing that a row of the change log is about."""

    FLEET = "fleet"
    LISTENER = "listener"
    POOL = "pool"
    EXIT = "exit"
    PROXY = "proxy"
    ROUTE = "route"
    USER = "user"
    SERVER_CERTIFICATE = "server_certificate"
    AUTHORITY = "authority"
    PLAN = "plan"
    """Not part of a World: the data plane does not use plans yet."""
    ACCEPTED = "accepted"
    REJECTION = "rejection"
    APPROVAL = "approval"
    OVERRIDE = "override"


Key: TypeAlias = UUID | ResourceKey | tuple[ResourceKey, str, UUID]


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Change:
    """The new value of one thing, or None when it is gone."""

    kind: Kind
    key: Key
    value: Entity | None


def key_of(entity: Entity) -> Key:
    """Return the key under which a World holds `entity`."""
    match entity:
        case Accepted():
            return entity.key
        case Rejection():
            return (entity.key, entity.version, entity.proxy_id)
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
    TrustedAuthority: Kind.AUTHORITY,
    Accepted: Kind.ACCEPTED,
    Rejection: Kind.REJECTION,
    Approval: Kind.APPROVAL,
    RolloutOverride: Kind.OVERRIDE,
}


def put(entity: Entity) -> Change:
    """Return the change that adds or replaces `entity`."""
    return Change(_KINDS[type(entity)], key_of(entity), entity)


@dataclass(frozen=True, slots=True)
class World:
    """Everything that is declared at one revision, with the indexes that translation uses."""

    revision: int = 0
    secret_key: bytes = field(default=b"", repr=False)
    """The key of the hashes that are the versions of secrets; equal for all replicas."""
    fleets: Mapping[UUID, Fleet] = field(default_factory=_empty)
    listeners: Mapping[UUID, Listener] = field(default_factory=_empty)
    pools: Mapping[UUID, Pool] = field(default_factory=_empty)
    exits: Mapping[UUID, Exit] = field(default_factory=_empty)
    proxies: Mapping[UUID, Proxy] = field(default_factory=_empty)
    routes: Mapping[UUID, Route] = field(default_factory=_empty)
    users: Mapping[UUID, User] = field(default_factory=_empty)
    certificates: Mapping[UUID, ServerCertificate] = field(default_factory=_empty)
    authorities: Mapping[UUID, TrustedAuthority] = field(default_factory=_empty)
    accepted: Mapping[ResourceKey, Accepted] = field(default_factory=_empty)
    rejections: Mapping[tuple[ResourceKey, str, UUID], Rejection] = field(default_factory=_empty)
    """By resource, version and proxy."""
    approvals: Mapping[UUID, Approval] = field(default_factory=_empty)
    """By fleet id."""
    overrides: Mapping[UUID, RolloutOverride] = field(default_factory=_empty)
    accepted_of: Mapping[str, frozenset[ResourceKey]] = field(default_factory=_empty)
    """Keys of accepted resources by group."""
    rejections_of: Mapping[tuple[ResourceKey, str], frozenset[tuple[ResourceKey, str, UUID]]] = field(
        default_factory=_empty
    )
    """Keys of rejections by resource and version."""
    overrides_of: Mapping[str, frozenset[UUID]] = field(default_factory=_empty)
    """Override ids by group."""
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
    gateways_of: Mapping[UUID, frozenset[UUID]] = field(default_factory=_empty)
    """Ids of gateways by fleet id."""
    gateways_at: Mapping[UUID, Mapping[Locality | None, int]] = field(default_factory=_empty)
    """Numbers of gateways by locality, by fleet id. Counts suffice, and there may be thousands at one locality."""

    def changed(self, revision: int, changes: Iterable[Change]) -> World:
        """Return the World after `changes`, at `revision`. It shares everything unchanged with this one."""
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
    Kind.AUTHORITY: ("authorities", None, ""),
    Kind.ACCEPTED: ("accepted", "accepted_of", "group"),
    Kind.REJECTION: ("rejections", "rejections_of", "resource_version"),
    Kind.APPROVAL: ("approvals", None, ""),
    Kind.OVERRIDE: ("overrides", "overrides_of", "group"),
}


class _Draft:
    """A World under change. It copies each table at most once, however many changes are applied."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.tables: dict[str, Any] = {}
        self._members_by_owner: dict[tuple[str, Any], set[Any]] = {}
        """Sets of index members that were copied for change, by index and owner."""

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
            before, after = _gateway_locality(old), _gateway_locality(change.value)
            self._count(before, after)
            self._move_gateway(change.key, before and before[0], after and after[0])
        if index_name is None:
            return
        if old is not None:
            self._members(index_name, getattr(old, owner_field)).discard(change.key)
        if change.value is not None:
            self._members(index_name, getattr(change.value, owner_field)).add(change.key)

    def _members(self, index_name: str, owner: Any) -> set[Any]:
        members = self._members_by_owner.get((index_name, owner))
        if members is None:
            members = self._members_by_owner[index_name, owner] = set(getattr(self._world, index_name).get(owner, ()))
        return members

    def finish(self) -> dict[str, Any]:
        """Return the tables and indexes that changed, by field name."""
        for (index_name, owner), members in self._members_by_owner.items():
            index = self._table(index_name)
            if members:
                index[owner] = frozenset(members)
            else:
                index.pop(owner, None)
        return self.tables

    def _move_gateway(self, key: Key, before: UUID | None, after: UUID | None) -> None:
        """Move a gateway from one fleet to another; None: it is in none."""
        if before == after:
            return
        if before is not None:
            self._members("gateways_of", before).discard(key)
        if after is not None:
            self._members("gateways_of", after).add(key)

    def _count(self, before: _GatewayLocality | None, after: _GatewayLocality | None) -> None:
        if before == after:
            return
        counts = self._table("gateways_at")
        for gateway, by in ((before, -1), (after, 1)):
            if gateway is None:
                continue
            fleet_id, locality = gateway
            by_locality = {**counts.pop(fleet_id, {})}
            by_locality[locality] = by_locality.get(locality, 0) + by
            if not by_locality[locality]:
                del by_locality[locality]
            if by_locality:
                counts[fleet_id] = by_locality


_GatewayLocality: TypeAlias = tuple[UUID, Locality | None]


def _gateway_locality(entity: Entity | None) -> _GatewayLocality | None:
    """Return the fleet and the locality of a gateway; None for any other entity."""
    return (entity.fleet_id, entity.locality) if isinstance(entity, Proxy) and entity.role is Role.GATEWAY else None
