"""From Worlds to streams: keeps the snapshots of the scopes that somebody subscribes to, and tells who is concerned.

A stream has one pending update, not a queue: what comes while it is busy is merged into it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from model.identity import Identity
from model.world import Change, Kind, World
from xds.snapshot.snapshot import Snapshot, View, advance, build, differences
from xds.translate.group import ResourceId, Scope, scope_keys, scopes_of

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Mailbox:
    """What a stream has not seen yet: the newest view, and which names may differ in it (None: any)."""

    identity: Identity
    view: View
    keys: tuple[str, ...]
    changed: dict[str, set[str]] | None = field(default_factory=dict)
    revoked: bool = False
    """The proxy is no more: its stream must end."""
    event: asyncio.Event = field(default_factory=asyncio.Event)

    def merge(self, differing: Iterable[ResourceId] | None) -> None:
        """Add to what is pending, and wake the stream."""
        if differing is None:
            self.changed = None
        elif self.changed is not None:
            for resource_id in differing:
                self.changed.setdefault(resource_id.type_url, set()).add(resource_id.name)
        self.event.set()

    def take(self) -> tuple[View, Mapping[str, set[str]] | None]:
        """Empty the box."""
        changed, self.changed = self.changed, {}
        self.event.clear()
        return self.view, changed


class Publisher:
    """Holds the newest World, the snapshots in use and the mailboxes of the streams."""

    def __init__(self) -> None:
        self.world: World | None = None
        self._snapshots: dict[str, Snapshot] = {}
        self._boxes: dict[str, set[Mailbox]] = defaultdict(set)
        self._of_proxy: dict[UUID, set[Mailbox]] = defaultdict(set)

    @property
    def streams(self) -> int:
        return sum(len(boxes) for boxes in self._of_proxy.values())

    def open(self, identity: Identity) -> Mailbox | None:
        """A mailbox for a stream; None when the World knows no such proxy, or none in that fleet and role."""
        assert self.world is not None
        scopes = self._scopes(identity, self.world)
        if not scopes:
            return None
        box = Mailbox(identity, self._view(scopes, self.world), tuple(scope.key for scope in scopes))
        self._enter(box)
        return box

    def close(self, box: Mailbox) -> None:
        """The stream has ended."""
        self._leave(box)

    def start(self, world: World) -> None:
        """The first World, or one that was loaded anew: whatever differs is published."""
        if self.world is not None and world.revision < self.world.revision:
            log.error("xds.lower_revision", known=self.world.revision, loaded=world.revision)
            return
        self.world = world
        for key, snapshot in [*self._snapshots.items()]:
            rebuilt = build(snapshot.scope, world)
            self._replace(key, rebuilt, differences(snapshot, rebuilt))
        for boxes in [*self._of_proxy.values()]:
            for box in [*boxes]:
                self._rescope(box, world)

    def publish(self, world: World, changes: Iterable[Change]) -> None:
        """A later World that differs by `changes`."""
        old, self.world = self.world, world
        assert old is not None
        by_key: dict[str, list[Change]] = defaultdict(list)
        moved: set[UUID] = set()
        for change in changes:
            for key in scope_keys(change, old, world):
                by_key[key].append(change)
            if change.kind in (Kind.EXIT, Kind.PROXY) and isinstance(change.key, UUID):
                moved.add(change.key)
        for key, of_key in by_key.items():
            snapshot = self._snapshots.get(key)
            if snapshot is not None:
                self._replace(key, *advance(snapshot, old, world, of_key))
        for proxy_id in moved:
            for box in [*self._of_proxy.get(proxy_id, ())]:
                self._rescope(box, world)

    def _replace(self, key: str, snapshot: Snapshot, differing: frozenset[ResourceId]) -> None:
        self._snapshots[key] = snapshot
        if not differing:
            return
        for box in self._boxes.get(key, ()):
            box.view = View([self._snapshots[each] for each in box.keys])
            box.merge(differing)

    def _rescope(self, box: Mailbox, world: World) -> None:
        """A proxy was changed: it may belong elsewhere now, or nowhere."""
        scopes = self._scopes(box.identity, world)
        keys = tuple(scope.key for scope in scopes)
        if keys == box.keys:
            return
        self._leave(box)
        if not scopes:
            box.revoked = True
            box.event.set()
            return
        box.view, box.keys = self._view(scopes, world), keys
        self._enter(box)
        box.merge(None)

    def _scopes(self, identity: Identity, world: World) -> tuple[Scope, ...]:
        proxy = world.proxies.get(identity.proxy_id)
        if proxy is None or proxy.fleet_id != identity.fleet_id or proxy.role is not identity.role:
            return ()
        return scopes_of(proxy, world)

    def _view(self, scopes: Iterable[Scope], world: World) -> View:
        for scope in scopes:
            if scope.key not in self._snapshots:
                self._snapshots[scope.key] = build(scope, world)
        return View([self._snapshots[scope.key] for scope in scopes])

    def _enter(self, box: Mailbox) -> None:
        self._of_proxy[box.identity.proxy_id].add(box)
        for key in box.keys:
            self._boxes[key].add(box)

    def _leave(self, box: Mailbox) -> None:
        _discard(self._of_proxy, box.identity.proxy_id, box)
        for key in box.keys:
            if _discard(self._boxes, key, box):
                self._snapshots.pop(key, None)


def _discard(table: dict[Any, set[Mailbox]], key: UUID | str, box: Mailbox) -> bool:
    """Remove a box; says whether it was the last under its key."""
    boxes = table.get(key, set())
    boxes.discard(box)
    if not boxes:
        table.pop(key, None)
    return not boxes
