"""The publisher of one replica: it turns Worlds into rollouts, and hands what changed to the streams that use them.

Each stream has one pending update, not a queue: what changes while the stream is busy is merged into it.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import structlog

from model.entities import VALIDATOR, Rejection, ResourceKey
from model.identity import Identity
from model.world import Change, Key, Kind, World, key_of
from xds.protocol.sotw import hash_resources
from xds.protocol.stream import XdsStream
from xds.server.counters import XdsCounters
from xds.server.publication import Publication
from xds.server.removed_clusters import RemovedClusters
from xds.snapshot.order import FOLLOWED_BY
from xds.snapshot.resource import Resource
from xds.snapshot.rollout import ChangeSet, Rollout, RolloutDiff, advance, build, compare, resource_of
from xds.snapshot.snapshot import ProxyView, Snapshot
from xds.translate.affected import affected
from xds.translate.names import CLUSTER
from xds.translate.resource_ids import ResourceId
from xds.translate.scopes import Scope, scopes_of

log = structlog.get_logger()


class PublicationObserver(Protocol):
    """The part of a server that is told what was published; `AckRecorder` stores it."""

    def begin_publication(self, publication: Publication) -> None:
        """Note that what `record_desired` reports until `record_published` belongs to a publication."""

    def record_published(self, revision: int) -> None:
        """Record that all streams have been given the World at `revision`."""

    def record_desired(self, proxy_id: UUID, type_url: str, revision: int) -> None:
        """Record that the desired resources of a type changed for a proxy at `revision`."""

    def record_rejections(self, rejections: Iterable[Rejection]) -> None:
        """Record versions that a proxy or the Envoy validator rejected."""


@dataclass(slots=True, eq=False)
class PendingUpdate:
    """The update that one stream has not seen yet: the newest view, and the names that may differ in it (None: any)."""

    identity: Identity
    view: ProxyView
    keys: tuple[str, ...]
    """Keys of the scopes of the view."""
    changed: dict[str, frozenset[str]] | None = field(default_factory=dict)
    answered: dict[str, set[str]] = field(default_factory=dict)
    """Names by type URL that the client answered on its other streams, and that this stream has not seen yet."""
    certificate: str = ""
    """The thumbprint of the client's certificate."""
    revoked: bool = False
    """True once the proxy was removed, or its certificate replaced, so that its stream must end."""
    stream: XdsStream | None = None
    """Set once the stream is served."""
    event: asyncio.Event = field(default_factory=asyncio.Event)
    since: float | None = None
    """Time of the oldest change in it (monotonic seconds); None while nothing is pending."""

    def merge(self, changed: Mapping[str, frozenset[str]] | None) -> None:
        """Add changed names by type URL (None for any), and wake the stream."""
        if changed is None:
            self.changed = None
        elif self.changed is not None:
            for type_url, names in changed.items():
                pending = self.changed.get(type_url)
                self.changed[type_url] = names if pending is None else pending | names
        self.event.set()

    def is_pending(self, type_url: str) -> bool:
        """Return whether resources of a type may have changed that the stream has not seen."""
        return self.changed is None or type_url in self.changed

    def take(self) -> tuple[ProxyView, Mapping[str, frozenset[str]] | None]:
        """Return the view and the changed names, and leave nothing pending."""
        changed, self.changed = self.changed, {}
        self.since = None
        self.event.clear()
        return self.view, changed


class Publisher:
    """The newest World, the rollouts that streams use, and the pending updates of the streams.

    Without `canaries`, change-sets go to all proxies at once. `rollout_due` is set when the rollout controller may have
    a change-set to try or to release.
    """

    def __init__(
        self,
        observer: PublicationObserver | None = None,
        *,
        counters: XdsCounters | None = None,
        canaries: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.world: World | None = None
        self.rollout_due = asyncio.Event()
        self._observer = observer
        self._counters = counters or XdsCounters()
        self._canaries_enabled = canaries
        self._clock = clock
        self._now = clock()
        """The time of the current publication."""
        self._removed_clusters = RemovedClusters()
        self._rollouts: dict[str, Rollout] = {}
        self._in_progress: set[str] = set()
        """Keys of the rollouts that have change-sets."""
        self._canaries: dict[str, frozenset[UUID]] = {}
        self._local_rejections: set[Key] = set()
        """Versions that were rejected at this replica and are not in the World yet."""
        self._new_scopes: set[str] = set()
        """Keys of the rollouts begun since `take_new_scopes` was called."""
        self._by_scope: dict[str, set[PendingUpdate]] = defaultdict(set)
        self._by_proxy: dict[UUID, set[PendingUpdate]] = defaultdict(set)

    @property
    def streams(self) -> int:
        """Number of open streams."""
        return sum(len(updates) for updates in self._by_proxy.values())

    @property
    def pending_updates(self) -> Iterator[PendingUpdate]:
        """The pending updates of all open streams, whether anything is pending or not."""
        return (pending for updates in self._by_proxy.values() for pending in updates)

    @property
    def snapshots(self) -> Iterable[Snapshot]:
        """The wanted snapshot of each scope in use."""
        return [rollout.wanted for rollout in self._rollouts.values()]

    @property
    def proxies(self) -> frozenset[UUID]:
        """Proxies that have a stream here."""
        return frozenset(self._by_proxy)

    # -- streams

    def open(self, identity: Identity, certificate: str = "") -> PendingUpdate | None:
        """Register a stream of a client with a certificate (its thumbprint).

        Return None if the World has no such proxy, has it in another fleet or role, or has replaced the certificate.
        """
        assert self.world is not None
        scopes = self._scopes(identity, certificate, self.world)
        if not scopes:
            return None
        self._ensure_rollouts(scopes, self.world)
        keys = tuple(scope.key for scope in scopes)
        pending = PendingUpdate(identity, self._view(identity, keys), keys, certificate=certificate)
        self._register(pending)
        return pending

    def close(self, pending: PendingUpdate) -> None:
        """Unregister a stream that has ended."""
        self._unregister(pending)

    def streams_of(self, proxy_id: UUID) -> Iterable[PendingUpdate]:
        """Return the pending updates of a proxy's streams."""
        return self._by_proxy.get(proxy_id, ())

    def report_answer(self, pending: PendingUpdate, type_url: str, names: Iterable[str]) -> None:
        """Tell the other streams of a proxy what its client answered on this one, if anything there follows from it."""
        if type_url in FOLLOWED_BY:
            for other in self.streams_of(pending.identity.proxy_id):
                if other is not pending:
                    other.answered.setdefault(type_url, set()).update(names)
                    other.event.set()

    def former_clusters(self, view: ProxyView, version: str) -> Iterator[Resource]:
        """Yield the clusters that a view lacks, but that a client may hold that states this version of an earlier full state.

        These are clusters that its groups accept, or accepted lately. Clusters that canaries try now are among them only if
        the version is a canary's: no other proxy may get them.
        """
        assert self.world is not None
        keys = [snapshot.scope.key for snapshot in view.snapshots]
        for key in keys:
            current = (self.world.accepted[each] for each in self.world.accepted_of.get(key, ()))
            for accepted in (*self._removed_clusters.of(key, self._clock()), *current):
                if accepted.key.type_url == CLUSTER and view.get(CLUSTER, accepted.key.name) is None:
                    yield resource_of(accepted)
        if not self._in_progress.isdisjoint(keys):
            rollouts = [self._rollouts[key] for key in keys if key in self._rollouts]
            given, tried = _clusters_of(view), _clusters_of(ProxyView([each.canary for each in rollouts]))
            if version in (hash_resources(tried.values()), hash_resources((given | tried).values())):
                yield from (tried[name] for name in tried.keys() - given.keys())

    # -- Worlds

    def start(self, world: World) -> None:
        """Publish a World that was loaded in full; compare all of each rollout."""
        if self.world is not None and world.revision < self.world.revision:
            log.error("xds.older_revision_ignored", known=self.world.revision, loaded=world.revision)
            return
        if self.world is not None:
            self._removed_clusters.record(self.world, world, self.world.accepted, self._clock())
        self.world, self._now = world, self._clock()
        self._local_rejections = {each for each in self._local_rejections if _is_awaited(each, world)}
        for key, rollout in [*self._rollouts.items()]:
            rebuilt = build(rollout.wanted.scope, world, canaries=self._canaries_enabled)
            self._replace_rollout(key, rebuilt, compare(rollout, rebuilt))
        for updates in [*self._by_proxy.values()]:
            for pending in [*updates]:
                self._update_scopes(pending, world)
        self._report_published(world)

    def publish(self, world: World, changes: Iterable[Change], publication: Publication | None = None) -> None:
        """Publish a later World that differs from the last one by `changes`."""
        old, self.world = self.world, world
        assert old is not None
        began = self._now = self._clock()
        trace = publication.trace if publication is not None else None
        changes = tuple(changes)
        accepted = (change.key for change in changes if isinstance(change.key, ResourceKey))
        self._removed_clusters.record(old, world, accepted, self._clock())
        moved: set[UUID] = set()
        for change in changes:
            if isinstance(change.value, Rejection):
                self._local_rejections.discard(key_of(change.value))
            if change.kind in (Kind.EXIT, Kind.PROXY) and isinstance(change.key, UUID):
                moved.add(change.key)
        self._local_rejections = {each for each in self._local_rejections if _is_awaited(each, world)}
        advanced = {
            key: advance(rollout, world, resources, canaries=self._canaries_enabled)
            for key, resources in affected(changes, old, world).items()
            if (rollout := self._rollouts.get(key)) is not None
        }
        if trace is not None:
            trace.record_translated(len(advanced))
        if publication is not None and self._observer is not None:
            self._observer.begin_publication(publication)
        for key, (rollout, differences) in advanced.items():
            self._replace_rollout(key, rollout, differences)
        for proxy_id in moved:
            for pending in [*self._by_proxy.get(proxy_id, ())]:
                self._update_scopes(pending, world)
        self._report_published(world)
        if trace is not None:
            trace.record_published()
        self._counters.published_revisions += world.revision - old.revision
        self._counters.publication_s.observe(self._clock() - began)

    # -- rollouts

    def rollouts_in_progress(self) -> dict[str, Rollout]:
        """Return the rollouts with change-sets, by the key of their scope."""
        return {key: self._rollouts[key] for key in self._in_progress}

    def wake_rollouts_of(self, pending: PendingUpdate) -> None:
        """Wake the rollout controller if the answer of this stream's client may advance a rollout."""
        if not self._in_progress.isdisjoint(pending.keys):
            self.rollout_due.set()

    def is_withheld(self, pending: PendingUpdate, type_url: str) -> bool:
        """Return whether a rollout withholds a desired resource of this type from a client."""
        for key in pending.keys:
            if key in self._in_progress:
                rollout = self._rollouts[key]
                served = self._served(key, pending.identity.proxy_id)
                if served.resources.get(type_url) is not rollout.wanted.resources.get(type_url):
                    return True
        return False

    def desired_view(self, pending: PendingUpdate) -> ProxyView:
        """Return the view that a client should have, whatever rollouts withhold from it."""
        return ProxyView([self._rollouts[key].wanted for key in pending.keys])

    def withheld_reason(self, pending: PendingUpdate, each: ResourceId) -> str:
        """Return why a rollout withholds a resource from a client; empty if none does."""
        for key in pending.keys:
            for change_set in self._rollouts[key].change_sets:
                if each in change_set.wanted:
                    tried = ", ".join(map(str, sorted(self.canaries_of(key)))) or "a canary at another replica"
                    return change_set.reason or f"{tried} tries it first"
        return ""

    def has_streams(self, key: str) -> bool:
        """Return whether a stream here uses a scope."""
        return key in self._rollouts

    def take_new_scopes(self) -> set[str]:
        """Return the keys of the rollouts begun since the last call."""
        new, self._new_scopes = self._new_scopes, set()
        return new

    def add_rejections(self, rejections: Sequence[Rejection]) -> None:
        """Record rejected versions. Nobody else here is asked to try them while other replicas may not know."""
        assert self.world is not None
        self._local_rejections |= {key for each in rejections if _is_awaited(key := key_of(each), self.world)}
        if self._observer is not None:
            self._observer.record_rejections(rejections)

    def has_local_rejection(self, key: str) -> bool:
        """Return whether a version of a scope was rejected here that other replicas may not know of yet."""
        return any(isinstance(each, tuple) and each[0].group == key for each in self._local_rejections)

    def rejecting_proxies(self, key: str) -> frozenset[UUID]:
        """Return the proxies that rejected a version of a scope. They are the last to be asked to try a change-set."""
        assert self.world is not None
        return frozenset(each.proxy_id for each in self.world.rejections.values() if each.key.group == key)

    def proxies_of(self, key: str) -> frozenset[UUID]:
        """Return the proxies of a scope that have a stream here."""
        return frozenset(pending.identity.proxy_id for pending in self._by_scope.get(key, ()))

    def canaries_of(self, key: str) -> frozenset[UUID]:
        """Return the canaries of a scope that have a stream here."""
        return self._canaries.get(key, frozenset()) & self.proxies_of(key)

    def set_canaries(self, key: str, proxies: frozenset[UUID]) -> None:
        """Make these proxies the canaries of a scope."""
        before = self._canaries.get(key, frozenset())
        if proxies == before or key not in self._by_scope:
            return
        self._canaries[key] = proxies
        self._now = self._clock()
        rollout = self._rollouts.get(key)
        tried = rollout.tried if rollout else frozenset()
        for pending in self._by_scope.get(key, ()):
            if tried and pending.identity.proxy_id in before ^ proxies:
                pending.view = self._view(pending.identity, pending.keys)
                self._merge(pending, _by_type(tried))

    def fleet_of(self, key: str) -> UUID | None:
        """Return the fleet that a scope belongs to."""
        rollout = self._rollouts.get(key)
        return rollout.wanted.scope.fleet(self.world) if rollout and self.world else None

    def has_accepted(self, key: str, proxy_id: UUID, change_set: ChangeSet) -> bool:
        """Return whether a proxy accepted all of a change-set that it subscribes to, and at least one resource of it.

        Removals count only in a change-set that has nothing else, because they are sent after a grace. A resource that
        no client uses counts as accepted.
        """
        updates = [pending for pending in self._by_proxy.get(proxy_id, ()) if key in pending.keys]
        kept = {each: resource for each, resource in change_set.wanted.items() if resource is not None}
        any_accepted = False
        for each, resource in (kept or change_set.wanted).items():
            if updates and not self._rollouts[key].is_used(each):
                any_accepted = True
                continue
            answers = [self._stream_accepted(pending, key, each, resource) for pending in updates]
            known = [answer for answer in answers if answer is not None]
            if known and not any(known):
                return False
            any_accepted = any_accepted or bool(known)
        return any_accepted

    def _stream_accepted(
        self, pending: PendingUpdate, key: str, each: ResourceId, resource: Resource | None
    ) -> bool | None:
        for overlay in pending.keys[pending.keys.index(key) + 1 :]:
            if self._served(overlay, pending.identity.proxy_id).get(each) is not None:
                return None  # the overlay hides this resource
        return pending.stream.has_accepted(each.type_url, each.name, resource) if pending.stream else None

    # -- inside

    def _report_published(self, world: World) -> None:
        if self._observer is not None:
            self._observer.record_published(world.revision)

    def _report_desired(self, pending: PendingUpdate, type_urls: Iterable[str], revision: int) -> None:
        if self._observer is not None:
            for type_url in type_urls:
                self._observer.record_desired(pending.identity.proxy_id, type_url, revision)

    def _replace_rollout(self, key: str, rollout: Rollout, differences: RolloutDiff) -> None:
        self._rollouts[key] = rollout
        if rollout.change_sets:
            self._in_progress.add(key)
            self.rollout_due.set()
        elif key in self._in_progress:
            self._in_progress.discard(key)
            self.rollout_due.set()
        if not (differences.stable or differences.canary or differences.wanted):
            return
        canaries = self._canaries.get(key, frozenset())
        wanted = {each.type_url for each in differences.wanted}
        views: dict[tuple[str, ...], ProxyView] = {}
        canary, stable = _by_type(differences.canary), _by_type(differences.stable)
        for pending in self._by_scope.get(key, ()):
            is_canary = pending.identity.proxy_id in canaries
            changed = canary if is_canary else stable
            self._report_desired(pending, wanted, rollout.wanted.revision)
            if not (changed or wanted):
                continue
            if is_canary or self._canaries:
                pending.view = self._view(pending.identity, pending.keys)
            else:  # streams with the same scopes share one view
                view = views.get(pending.keys)
                pending.view = view or views.setdefault(pending.keys, self._view(pending.identity, pending.keys))
            self._merge(pending, changed)

    def _update_scopes(self, pending: PendingUpdate, world: World) -> None:
        """Give a stream the scopes that its proxy has now; revoke it if the proxy was removed or its certificate replaced."""
        scopes = self._scopes(pending.identity, pending.certificate, world)
        keys, before = tuple(scope.key for scope in scopes), pending.keys
        if keys == before:
            return
        if not scopes:
            self._unregister(pending)
            pending.revoked = True
            pending.event.set()
            return
        self._ensure_rollouts(scopes, world)
        pending.view, pending.keys = self._view(pending.identity, keys), keys
        self._register(pending)
        self._leave_scopes(pending, set(before) - set(keys))
        type_urls = {type_url for each in pending.view.snapshots for type_url in each.resources}
        self._report_desired(pending, type_urls, world.revision)
        self._merge(pending, None)

    def _merge(self, pending: PendingUpdate, changed: Mapping[str, frozenset[str]] | None) -> None:
        """Merge changes into a pending update, and count it."""
        self._counters.updates += 1
        if pending.since is None:
            pending.since = self._now
        else:
            self._counters.coalesced += 1
        pending.merge(changed)

    def _scopes(self, identity: Identity, certificate: str, world: World) -> tuple[Scope, ...]:
        proxy = world.proxies.get(identity.proxy_id)
        if proxy is None or proxy.fleet_id != identity.fleet_id or proxy.role is not identity.role:
            return ()
        if certificate in proxy.replaced_certificates:
            return ()
        return scopes_of(proxy, world)

    def _ensure_rollouts(self, scopes: Iterable[Scope], world: World) -> None:
        for scope in scopes:
            if scope.key not in self._rollouts:
                rollout = build(scope, world, canaries=self._canaries_enabled)
                self._rollouts[scope.key] = rollout
                self._new_scopes.add(scope.key)
                if rollout.change_sets:
                    self._in_progress.add(scope.key)
                    self.rollout_due.set()

    def _served(self, key: str, proxy_id: UUID) -> Snapshot:
        """Return the snapshot of a scope that a proxy is served."""
        rollout = self._rollouts[key]
        return rollout.canary if proxy_id in self._canaries.get(key, ()) else rollout.stable

    def _view(self, identity: Identity, keys: Iterable[str]) -> ProxyView:
        return ProxyView([self._served(key, identity.proxy_id) for key in keys])

    def _register(self, pending: PendingUpdate) -> None:
        self._by_proxy[pending.identity.proxy_id].add(pending)
        for key in pending.keys:
            self._by_scope[key].add(pending)
        self.wake_rollouts_of(pending)

    def _unregister(self, pending: PendingUpdate) -> None:
        _discard(self._by_proxy, pending.identity.proxy_id, pending)
        self._leave_scopes(pending, pending.keys)

    def _leave_scopes(self, pending: PendingUpdate, keys: Iterable[str]) -> None:
        for key in keys:
            if pending.identity.proxy_id in self._canaries.get(key, ()):
                self.rollout_due.set()  # another proxy has to try what this one was served
            if _discard(self._by_scope, key, pending):
                self._rollouts.pop(key, None)
                self._canaries.pop(key, None)
                self._in_progress.discard(key)


def _is_awaited(rejection: Key, world: World) -> bool:
    """Return whether a rejection, by its key, will be in the World: that of a removed proxy is not stored."""
    if rejection in world.rejections or not isinstance(rejection, tuple):
        return False
    proxy_id = rejection[-1]
    return proxy_id == VALIDATOR or proxy_id in world.proxies


def _clusters_of(view: ProxyView) -> dict[str, Resource]:
    return {name: cluster for name in view.names(CLUSTER) if (cluster := view.get(CLUSTER, name))}


def _by_type(resource_ids: Iterable[ResourceId]) -> Mapping[str, frozenset[str]]:
    """Group names by type URL; called once for all streams of a scope."""
    found: dict[str, set[str]] = defaultdict(set)
    for each in resource_ids:
        found[each.type_url].add(each.name)
    return {type_url: frozenset(names) for type_url, names in found.items()}


def _discard(table: dict[Any, set[PendingUpdate]], key: UUID | str, pending: PendingUpdate) -> bool:
    """Remove a pending update from a table. Return whether it was the last one under its key."""
    updates = table.get(key, set())
    updates.discard(pending)
    if not updates:
        table.pop(key, None)
    return not updates
