"""Snapshots: the encoded resources of one scope, built from scratch or advanced; and views, which overlay the scopes of a proxy.

An advanced snapshot equals one built from scratch (docs/architecture.md#incremental-equals-full).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from model.world import World
from xds.snapshot.resource import Resource, make_resource
from xds.translate.encoding import encode
from xds.translate.resource_ids import ResourceId
from xds.translate.scopes import Scope

Table = Mapping[str, Mapping[str, Resource]]
"""Resources by type URL and name."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The resources of one scope at one revision."""

    scope: Scope
    revision: int
    resources: Table = field(default_factory=dict)

    def get(self, resource_id: ResourceId) -> Resource | None:
        """Return a resource of this scope, if it exists."""
        return self.resources.get(resource_id.type_url, {}).get(resource_id.name)


def build(scope: Scope, world: World) -> Snapshot:
    """Build the snapshot of a scope from scratch."""
    table: dict[str, dict[str, Resource]] = {}
    for resource_id in scope.resources(world):
        resource = _render(scope, world, resource_id)
        if resource is not None:
            table.setdefault(resource.type_url, {})[resource.name] = resource
    return Snapshot(scope, world.revision, table)


def advance(snapshot: Snapshot, world: World, affected: Iterable[ResourceId]) -> tuple[Snapshot, frozenset[ResourceId]]:
    """Return the snapshot of a newer World, and which resources differ. Only those that are affected are translated."""
    scope = snapshot.scope
    table = dict(snapshot.resources)
    differing: set[ResourceId] = set()
    for resource_id in affected:
        before = table.get(resource_id.type_url, {}).get(resource_id.name)
        after = _render(scope, world, resource_id)
        if (before and before.version) == (after and after.version):
            continue
        if not any(other.type_url == resource_id.type_url for other in differing):
            table[resource_id.type_url] = dict(table.get(resource_id.type_url, {}))
        resources = table[resource_id.type_url]
        assert isinstance(resources, dict)
        if after is None:
            del resources[resource_id.name]
        else:
            resources[resource_id.name] = after
        differing.add(resource_id)
    return Snapshot(scope, world.revision, table), frozenset(differing)


def differences(old: Snapshot, new: Snapshot) -> frozenset[ResourceId]:
    """Compare all resources of two snapshots of a scope, and return those that differ."""
    return frozenset(
        ResourceId(type_url, name)
        for type_url in {*old.resources, *new.resources}
        for name in {*old.resources.get(type_url, ()), *new.resources.get(type_url, ())}
        if _version(old, type_url, name) != _version(new, type_url, name)
    )


def _version(snapshot: Snapshot, type_url: str, name: str) -> str | None:
    resource = snapshot.resources.get(type_url, {}).get(name)
    return resource.version if resource else None


def _render(scope: Scope, world: World, resource_id: ResourceId) -> Resource | None:
    message = scope.translate(world, resource_id)
    if message is None:
        return None
    return make_resource(resource_id.type_url, resource_id.name, encode(message), world.secret_key)


@dataclass(frozen=True, slots=True)
class ProxyView:
    """The resources for one proxy: its group's snapshot and, over it, its overlay's."""

    snapshots: Sequence[Snapshot]

    @property
    def revision(self) -> int:
        return max((snapshot.revision for snapshot in self.snapshots), default=0)

    def get(self, type_url: str, name: str) -> Resource | None:
        """Return a resource as the last of the snapshots has it."""
        for snapshot in reversed(self.snapshots):
            resource = snapshot.resources.get(type_url, {}).get(name)
            if resource is not None:
                return resource
        return None

    def names(self, type_url: str) -> Iterable[str]:
        """Return the names of all resources of a type, each once."""
        tables = [snapshot.resources[type_url] for snapshot in self.snapshots if type_url in snapshot.resources]
        return tables[0] if len(tables) == 1 else {name for table in tables for name in table}

    def scope_of(self, resource: Resource) -> str | None:
        """Return the key of the scope that a resource comes from; None if this view no longer has that version."""
        possible = [snapshot.scope.key for snapshot in self.snapshots if resource.type_url in snapshot.scope.types]
        if len(possible) == 1:
            return possible[0]
        for snapshot in reversed(self.snapshots):
            held = snapshot.resources.get(resource.type_url, {}).get(resource.name)
            if held is not None and held.version == resource.version:
                return snapshot.scope.key
        return None
