"""From Worlds to streams: keeps the rollouts of the scopes that somebody subscribes to, and tells who is concerned.

A stream has one pending update, not a queue: what comes while it is busy is merged into it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from model.entities import Rejection, ResourceKey
from model.identity import Identity
from model.world import Change, Kind, World
from xds.protocol.stream import XdsStream
from xds.snapshot.resource import Resource
from xds.snapshot.rollout import ChangeSet, Rollout, RolloutDiff, advance, build, compare
from xds.snapshot.snapshot import ProxyView, Snapshot
from xds.translate.scopes import ResourceId, Scope, scope_keys, scopes_of

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class PendingUpdate:
    """What a stream has not seen yet: the newest view, and which names may differ in it (None: any)."""

    identity: Identity
    view: ProxyView
    keys: tuple[str, ...]
    changed: dict[str, frozenset[str]] | None = field(default_factory=dict)
    revoked: bool = False
    """The proxy is no more: its stream must end."""
    stream: XdsStream | None = None
    """Once it converses."""
    event: asyncio.Event = field(default_factory=asyncio.Event)

    def merge(self, differing: Mapping[str, frozenset[str]] | None) -> None:
        """Add to what is pending (names by type URL, None for any), and wake the stream."""
        if differing is None:
            self.changed = None
        elif self.changed is not None:
            for type_url, names in differing.items():
                pending = self.changed.get(type_url)
                self.changed[type_url] = names if pending is None else pending | names
        self.event.set()

    def is_pending(self, type_url: str) -> bool:
        """Whether something of a type may have changed that the stream does not know of yet."""
        return self.changed is None or type_url in self.changed

    def take(self) -> tuple[ProxyView, Mapping[str, frozenset[str]] | None]:
        """Empty the box."""
        changed, self.changed = self.changed, {}
        self.event.clear()
        return self.view, changed


class Publisher:
    """Holds the newest World, the rollouts in use and the mailboxes of the streams.

    `canaries` says whether change-sets are tried before everybody is given them. `on_rollout` is called when there may be
    something to try or to release, `on_wanted` with each proxy, type URL and revision that means something else for it.
    """

    def __init__(
        self,
        *,
        canaries: bool = True,
        on_rollout: Callable[[], None] = lambda: None,
        on_wanted: Callable[[UUID, str, int], None] = lambda _proxy, _type, _revision: None,
    ) -> None:
        self.world: World | None = None
        self._canaries_wanted = canaries
        self._on_rollout = on_rollout
        self._on_wanted = on_wanted
        self._rollouts: dict[str, Rollout] = {}
        self._unsettled: set[str] = set()
        """The keys of the rollouts with change-sets."""
        self._canaries: dict[str, frozenset[UUID]] = {}
        self._refused: set[tuple[ResourceKey, str]] = set()
        """Versions that a proxy rejected here, and that the World does not know of yet."""
        self._new: set[str] = set()
        """The keys of the rollouts that were begun since somebody asked."""
        self._boxes: dict[str, set[PendingUpdate]] = defaultdict(set)
        self._of_proxy: dict[UUID, set[PendingUpdate]] = defaultdict(set)

    @property
    def streams(self) -> int:
        return sum(len(boxes) for boxes in self._of_proxy.values())

    @property
    def proxies(self) -> frozenset[UUID]:
        """Those that have a stream here."""
        return frozenset(self._of_proxy)

    # -- streams

    def open(self, identity: Identity) -> PendingUpdate | None:
        """A mailbox for a stream; None when the World knows no such proxy, or none in that fleet and role."""
        assert self.world is not None
        scopes = self._scopes(identity, self.world)
        if not scopes:
            return None
        self._ensure(scopes, self.world)
        keys = tuple(scope.key for scope in scopes)
        box = PendingUpdate(identity, self._view(identity, keys), keys)
        self._enter(box)
        return box

    def close(self, box: PendingUpdate) -> None:
        """The stream has ended."""
        self._leave(box)

    def connected(self, proxy_id: UUID) -> Iterable[PendingUpdate]:
        """The mailboxes of a proxy's streams."""
        return self._of_proxy.get(proxy_id, ())

    # -- Worlds

    def start(self, world: World) -> None:
        """The first World, or one that was loaded anew: whatever differs is published."""
        if self.world is not None and world.revision < self.world.revision:
            log.error("xds.lower_revision", known=self.world.revision, loaded=world.revision)
            return
        self.world = world
        self._refused = {each for each in self._refused if each not in world.rejections}
        for key, rollout in [*self._rollouts.items()]:
            rebuilt = build(rollout.wanted.scope, world, canaries=self._canaries_wanted)
            self._replace(key, rebuilt, compare(rollout, rebuilt))
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
            if isinstance(change.value, Rejection):
                self._refused.discard((change.value.key, change.value.version))
            if change.kind in (Kind.EXIT, Kind.PROXY) and isinstance(change.key, UUID):
                moved.add(change.key)
        for key, of_key in by_key.items():
            rollout = self._rollouts.get(key)
            if rollout is not None:
                self._replace(key, *advance(rollout, old, world, of_key, canaries=self._canaries_wanted))
        for proxy_id in moved:
            for box in [*self._of_proxy.get(proxy_id, ())]:
                self._rescope(box, world)

    # -- rollouts

    def rolling_out(self) -> dict[str, Rollout]:
        """The rollouts with change-sets, by the key of their scope."""
        return {key: self._rollouts[key] for key in self._unsettled}

    def is_rolling_out(self, box: PendingUpdate) -> bool:
        """Whether what a client answers may bring a rollout further."""
        return not self._unsettled.isdisjoint(box.keys)

    def is_kept_from(self, box: PendingUpdate, type_url: str) -> bool:
        """Whether a client is not given all that it should have of a type."""
        for key in box.keys:
            if key in self._unsettled:
                rollout = self._rollouts[key]
                given = self._given(key, box.identity.proxy_id)
                if given.resources.get(type_url) is not rollout.wanted.resources.get(type_url):
                    return True
        return False

    def wanted(self, box: PendingUpdate) -> ProxyView:
        """What a client should hold, whatever it is given in its place."""
        return ProxyView([self._rollouts[key].wanted for key in box.keys])

    def why_withheld(self, box: PendingUpdate, each: ResourceId) -> str:
        """Why a client is given something else than what is wanted."""
        for key in box.keys:
            for change_set in self._rollouts[key].change_sets:
                if each in change_set.wanted:
                    tried = ", ".join(map(str, sorted(self.canaries_of(key)))) or "a canary at another replica"
                    return change_set.reason or f"{tried} tries it first"
        return ""

    def holds(self, key: str) -> bool:
        """Whether some stream here is of a scope."""
        return key in self._rollouts

    def take_new(self) -> set[str]:
        """The keys of the rollouts that were begun since this was asked last."""
        new, self._new = self._new, set()
        return new

    def refuse(self, rejections: Iterable[Rejection]) -> None:
        """A proxy rejected these: until all replicas know that, nobody else here is asked to try them."""
        assert self.world is not None
        refused = {(each.key, each.version) for each in rejections}
        self._refused |= {each for each in refused if each not in self.world.rejections}

    def is_refusing(self, key: str) -> bool:
        """Whether something of a scope was rejected here that the others may not know of yet."""
        return any(each.group == key for each, _ in self._refused)

    def proxies_of(self, key: str) -> frozenset[UUID]:
        """The proxies of a scope that have a stream here."""
        return frozenset(box.identity.proxy_id for box in self._boxes.get(key, ()))

    def canaries_of(self, key: str) -> frozenset[UUID]:
        """Those of them that try its changes."""
        return self._canaries.get(key, frozenset()) & self.proxies_of(key)

    def set_canaries(self, key: str, proxies: frozenset[UUID]) -> None:
        """From now on these try the changes of a scope."""
        before = self._canaries.get(key, frozenset())
        if proxies == before or key not in self._boxes:
            return
        self._canaries[key] = proxies
        rollout = self._rollouts.get(key)
        tried = rollout.tried if rollout else frozenset()
        for box in self._boxes.get(key, ()):
            if tried and box.identity.proxy_id in before ^ proxies:
                box.view = self._view(box.identity, box.keys)
                box.merge(_by_type(tried))

    def fleet_of(self, key: str) -> UUID | None:
        """The fleet that a scope is of."""
        rollout = self._rollouts.get(key)
        return rollout.wanted.scope.fleet(self.world) if rollout and self.world else None

    def stands(self, key: str, proxy_id: UUID, change_set: ChangeSet) -> bool:
        """Whether a proxy accepted a change-set: all of it that it asks for, and that is something.

        What is to go counts only where nothing else is in the set: its turn comes after a grace. What nobody uses is
        accepted as it is.
        """
        boxes = [box for box in self._of_proxy.get(proxy_id, ()) if key in box.keys]
        kept = {each: resource for each, resource in change_set.wanted.items() if resource is not None}
        some = False
        for each, resource in (kept or change_set.wanted).items():
            if boxes and not self._rollouts[key].is_used(each):
                some = True
                continue
            told = [it for box in boxes if (it := self._stands(box, key, each, resource)) is not None]
            if told and not any(told):
                return False
            some = some or bool(told)
        return some

    def _stands(self, box: PendingUpdate, key: str, each: ResourceId, resource: Resource | None) -> bool | None:
        for over in box.keys[box.keys.index(key) + 1 :]:
            if self._given(over, box.identity.proxy_id).get(each) is not None:
                return None  # the overlay has its own, so that this one is not used
        return box.stream.stands(each.type_url, each.name, resource) if box.stream else None

    # -- inside

    def _replace(self, key: str, rollout: Rollout, differences: RolloutDiff) -> None:
        self._rollouts[key] = rollout
        if rollout.change_sets:
            self._unsettled.add(key)
            self._on_rollout()
        elif key in self._unsettled:
            self._unsettled.discard(key)
            self._on_rollout()
        if not (differences.settled or differences.trial or differences.wanted):
            return
        canaries = self._canaries.get(key, frozenset())
        wanted = {each.type_url for each in differences.wanted}
        views: dict[tuple[str, ...], ProxyView] = {}
        trial, settled = _by_type(differences.trial), _by_type(differences.settled)
        for box in self._boxes.get(key, ()):
            is_canary = box.identity.proxy_id in canaries
            differing = trial if is_canary else settled
            for type_url in wanted:
                self._on_wanted(box.identity.proxy_id, type_url, rollout.wanted.revision)
            if not (differing or wanted):
                continue
            if is_canary or self._canaries:
                box.view = self._view(box.identity, box.keys)
            else:  # all who have the same scopes share the view
                box.view = views.get(box.keys) or views.setdefault(box.keys, self._view(box.identity, box.keys))
            box.merge(differing)

    def _rescope(self, box: PendingUpdate, world: World) -> None:
        """A proxy was changed: it may belong elsewhere now, or nowhere."""
        scopes = self._scopes(box.identity, world)
        keys, before = tuple(scope.key for scope in scopes), box.keys
        if keys == before:
            return
        if not scopes:
            self._leave(box)
            box.revoked = True
            box.event.set()
            return
        self._ensure(scopes, world)
        box.view, box.keys = self._view(box.identity, keys), keys
        self._enter(box)
        self._leave_scopes(box, set(before) - set(keys))
        for type_url in {type_url for each in box.view.snapshots for type_url in each.resources}:
            self._on_wanted(box.identity.proxy_id, type_url, world.revision)
        box.merge(None)

    def _scopes(self, identity: Identity, world: World) -> tuple[Scope, ...]:
        proxy = world.proxies.get(identity.proxy_id)
        if proxy is None or proxy.fleet_id != identity.fleet_id or proxy.role is not identity.role:
            return ()
        return scopes_of(proxy, world)

    def _ensure(self, scopes: Iterable[Scope], world: World) -> None:
        for scope in scopes:
            if scope.key not in self._rollouts:
                rollout = build(scope, world, canaries=self._canaries_wanted)
                self._rollouts[scope.key] = rollout
                self._new.add(scope.key)
                if rollout.change_sets:
                    self._unsettled.add(scope.key)
                    self._on_rollout()

    def _given(self, key: str, proxy_id: UUID) -> Snapshot:
        rollout = self._rollouts[key]
        return rollout.trial if proxy_id in self._canaries.get(key, ()) else rollout.settled

    def _view(self, identity: Identity, keys: Iterable[str]) -> ProxyView:
        return ProxyView([self._given(key, identity.proxy_id) for key in keys])

    def _enter(self, box: PendingUpdate) -> None:
        self._of_proxy[box.identity.proxy_id].add(box)
        for key in box.keys:
            self._boxes[key].add(box)
        if not self._unsettled.isdisjoint(box.keys):
            self._on_rollout()

    def _leave(self, box: PendingUpdate) -> None:
        _discard(self._of_proxy, box.identity.proxy_id, box)
        self._leave_scopes(box, box.keys)

    def _leave_scopes(self, box: PendingUpdate, keys: Iterable[str]) -> None:
        for key in keys:
            if box.identity.proxy_id in self._canaries.get(key, ()):
                self._on_rollout()  # somebody else has to try what this one was given
            if _discard(self._boxes, key, box):
                self._rollouts.pop(key, None)
                self._canaries.pop(key, None)
                self._unsettled.discard(key)


def _by_type(differing: Iterable[ResourceId]) -> Mapping[str, frozenset[str]]:
    """Names by type URL; made once for all streams."""
    found: dict[str, set[str]] = defaultdict(set)
    for each in differing:
        found[each.type_url].add(each.name)
    return {type_url: frozenset(names) for type_url, names in found.items()}


def _discard(table: dict[Any, set[PendingUpdate]], key: UUID | str, box: PendingUpdate) -> bool:
    """Remove a box; says whether it was the last under its key."""
    boxes = table.get(key, set())
    boxes.discard(box)
    if not boxes:
        table.pop(key, None)
    return not boxes
