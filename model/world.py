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


class Role(StrEnum):
    """What an Envoy under control does: gateways take clients in, exits let their traffic out."""

    GATEWAY = "gateway"
    EXIT = "exit"


class ExitState(StrEnum):
    """Where an exit stands. Only healthy exits are offered to clients (decision 11: fail closed)."""

    REGISTERING = "registering"
    """Declared or enrolled, and not yet heard of."""
    HEALTHY = "healthy"
    UNREACHABLE = "unreachable"
    """It said that its tunnel or its Envoy is down, or fell silent for longer than the heartbeat timeout."""
    LOST = "lost"
    """Silent for so long that nobody should wait for it."""
    DISABLED = "disabled"
    """Taken out by an operator."""


class Kind(StrEnum):
    """What a row of the change log speaks of."""

    FLEET = "fleet"
    LISTENER = "listener"
    POOL = "pool"
    EXIT = "exit"
    PROXY = "proxy"
    ACCEPTED = "accepted"
    REJECTION = "rejection"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Gateways that share configuration and an isolation boundary; Envoy's `node.cluster`."""

    id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the gateways of a fleet take clients in. `address` is an IP literal."""

    id: UUID
    fleet_id: UUID
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Pool:
    """Exits that serve one country (ISO 3166-1 alpha-2, lower case)."""

    id: UUID
    fleet_id: UUID
    name: str
    country: str


@dataclass(frozen=True, slots=True)
class Exit:
    """A VPN tunnel with a way in.

    `endpoint` is the IP literal that gateways dial (None while a host name is unresolved), `bind_address` what its Envoy
    listens on, `egress_address` the source address it must use towards targets (None: the kernel's choice).
    """

    id: UUID
    pool_id: UUID
    name: str
    endpoint: str | None
    port: int
    state: ExitState
    bind_address: str = "0.0.0.0"  # noqa: S104 - the exit's listener demands a gateway's certificate
    egress_address: str | None = None


@dataclass(frozen=True, slots=True)
class Proxy:
    """An Envoy under control. The Envoy of a managed exit is a proxy with the exit's own id."""

    id: UUID
    fleet_id: UUID
    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class ResourceKey:
    """One resource of one group of proxies, across its versions."""

    group: str
    type_url: str
    name: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The version of a resource that a proxy of the group acknowledged last, with its bytes (an Any's value)."""

    key: ResourceKey
    version: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Rejection:
    """A version that a proxy refused, with Envoy's own words. It is sent to nobody else (decision 8)."""

    key: ResourceKey
    version: str
    proxy_id: UUID
    detail: str


Key: TypeAlias = UUID | ResourceKey | tuple[ResourceKey, str]
Entity: TypeAlias = Fleet | Listener | Pool | Exit | Proxy | Accepted | Rejection


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
        case _:
            return entity.id


_KINDS: Mapping[type, Kind] = {
    Fleet: Kind.FLEET,
    Listener: Kind.LISTENER,
    Pool: Kind.POOL,
    Exit: Kind.EXIT,
    Proxy: Kind.PROXY,
    Accepted: Kind.ACCEPTED,
    Rejection: Kind.REJECTION,
}


def put(entity: Entity) -> Change:
    """The change that adds or replaces `entity`."""
    return Change(_KINDS[type(entity)], key_of(entity), entity)


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class World:
    """All that is declared, at one revision, with the indexes that translation walks."""

    revision: int = 0
    fleets: Mapping[UUID, Fleet] = field(default_factory=_empty)
    listeners: Mapping[UUID, Listener] = field(default_factory=_empty)
    pools: Mapping[UUID, Pool] = field(default_factory=_empty)
    exits: Mapping[UUID, Exit] = field(default_factory=_empty)
    proxies: Mapping[UUID, Proxy] = field(default_factory=_empty)
    accepted: Mapping[ResourceKey, Accepted] = field(default_factory=_empty)
    rejections: Mapping[tuple[ResourceKey, str], Rejection] = field(default_factory=_empty)
    listeners_of: Mapping[UUID, frozenset[UUID]] = field(default_factory=_empty)
    """Listener ids by fleet id."""
    pools_of: Mapping[UUID, frozenset[UUID]] = field(default_factory=_empty)
    """Pool ids by fleet id."""
    exits_of: Mapping[UUID, frozenset[UUID]] = field(default_factory=_empty)
    """Exit ids by pool id."""

    def changed(self, revision: int, changes: Iterable[Change]) -> World:
        """The World after `changes`, at `revision`; what did not change is shared with this one."""
        draft = _Draft(self)
        for change in changes:
            draft.apply(change)
        return replace(self, revision=revision, **draft.tables)


# kind -> (table, index kept beside it, attribute that the index is by)
_TABLES: Mapping[Kind, tuple[str, str | None, str]] = {
    Kind.FLEET: ("fleets", None, ""),
    Kind.LISTENER: ("listeners", "listeners_of", "fleet_id"),
    Kind.POOL: ("pools", "pools_of", "fleet_id"),
    Kind.EXIT: ("exits", "exits_of", "pool_id"),
    Kind.PROXY: ("proxies", None, ""),
    Kind.ACCEPTED: ("accepted", None, ""),
    Kind.REJECTION: ("rejections", None, ""),
}


class _Draft:
    """Copies each table of a World at most once while changes are applied to it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.tables: dict[str, Any] = {}

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
        if index_name is None:
            return
        index = self._table(index_name)
        if old is not None:
            owner = getattr(old, owner_field)
            index[owner] = index[owner] - {change.key}
            if not index[owner]:
                del index[owner]
        if change.value is not None:
            owner = getattr(change.value, owner_field)
            index[owner] = index.get(owner, frozenset()) | {change.key}
