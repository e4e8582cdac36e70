"""The recorder of ACKs and NACKs: it stores the sync state of proxies and their rejections, in batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog

from model.database import Database, DatabaseUnreachable
from model.entities import Rejection, ResourceKey
from model.identity import Identity
from model.repositories import rollout, sync
from model.repositories.sync import TypeSync
from model.unit_of_work import write
from model.world import Key, key_of
from xds.protocol.stream import Answered
from xds.server.counters import XdsCounters
from xds.server.publication import Publication
from xds.snapshot.order import is_rolled_out
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import ProxyView
from xds.translate.resource_ids import ResourceId

_FLUSH_S: Final = 0.25
_HEARTBEAT_EVERY_S: Final = 2.0
_FINAL_FLUSH_S: Final = 3.0
_MAX_PENDING_REJECTIONS: Final = 10_000
_MAX_UNANSWERED: Final = 8
"""Publications to one proxy and type whose ACKs are measured at the same time."""

log = structlog.get_logger()


class AckRecorder:
    """Collects the sync state of each proxy and type, and stores it off the path of the streams; `run` is its task."""

    def __init__(
        self,
        database: Database,
        replica: UUID,
        clock: Callable[[], datetime],
        counters: XdsCounters | None = None,
        metrics_address: str | None = None,
    ) -> None:
        self._metrics_address = metrics_address
        self._counters = counters or XdsCounters()
        self._publication: Publication | None = None
        """The publication that is being given to the streams."""
        self._unanswered: dict[tuple[UUID, str], deque[Publication]] = {}
        """Publications that a proxy has not accepted yet, by proxy and type, the oldest first."""
        self._database = database
        self._replica = replica
        self._clock = clock
        self._revision: int | None = None
        """The newest revision that all streams have been given."""
        self._states: dict[UUID, dict[str, TypeSync]] = {}
        self._changed: dict[tuple[UUID, str], TypeSync] = {}
        self._rejections: dict[Key, Rejection] = {}
        self._event = asyncio.Event()

    # -- what the publisher and the streams report

    def sync_states(self, proxy_id: UUID) -> Mapping[str, TypeSync]:
        """Return the sync state of a proxy with a stream, by type URL."""
        return self._states.get(proxy_id, {})

    def begin_publication(self, publication: Publication) -> None:
        """Note that what `record_desired` reports until `record_published` belongs to a publication."""
        self._publication = publication

    def record_published(self, revision: int) -> None:
        """Record that all streams have been given the World at `revision`."""
        self._revision = revision
        self._publication = None

    def record_subscribed(self, proxy_id: UUID, type_url: str, revision: int) -> None:
        """Record that a proxy subscribed to a type, of which it should have the World at `revision`."""
        self._state(proxy_id, type_url)
        self.record_desired(proxy_id, type_url, revision)

    def record_desired(self, proxy_id: UUID, type_url: str, revision: int) -> None:
        """Record that the desired resources changed at `revision`; ignored if the proxy has not subscribed to the type."""
        state = self.sync_states(proxy_id).get(type_url)
        if state is not None and revision > state.wanted_revision:
            state.wanted_revision, state.wanted_at = revision, self._clock()
            if self._publication is not None:
                self._expect_answer(state, self._publication)
            self._mark_changed(state)

    def record_sent(self, proxy_id: UUID, type_url: str, revision: int, size: int) -> None:
        """Record that a response of `size` bytes, made from the World at `revision`, was sent."""
        self._counters.response_bytes[type_url].observe(size)
        state = self._state(proxy_id, type_url)
        state.sent_revision, state.sent_at = revision, self._clock()
        self._mark_changed(state)

    def record_in_sync(self, state: TypeSync) -> None:
        """Record that the proxy accepted everything that it should have of a type."""
        state.accepted_revision, state.accepted_at = state.wanted_revision, self._clock()
        self._record_converged(state)
        self._mark_changed(state)

    def record_answer(
        self, identity: Identity, view: ProxyView, answered: Answered, *, withheld: bool
    ) -> Sequence[Rejection]:
        """Record an ACK or NACK. Return the rejections of versions.

        A proxy from which desired resources are `withheld` has not accepted their revision, whatever it was sent instead.
        """
        state = self._state(identity.proxy_id, answered.type_url)
        rejections = _rejections(identity, view, answered)
        if answered.error is None:
            revision = min(answered.revision, state.wanted_revision - 1) if withheld else answered.revision
            state.accepted_revision, state.accepted_at = revision, self._clock()
            self._counters.acks[answered.type_url] += 1
            self._record_converged(state)
        else:
            self._counters.nacks[answered.type_url] += 1
            self._record_rejected(state, answered.error)
            log.warning(
                "xds.nack",
                node=str(identity.proxy_id),
                type=answered.type_url,
                versions={name: resource.version for name, resource in answered.resources.items()},
                detail=answered.error,
            )
            state.rejected_revision, state.rejected_at = answered.revision, self._clock()
            state.detail = _storable(answered.error)
        self._mark_changed(state)
        return rejections

    def record_rejections(self, rejections: Iterable[Rejection]) -> None:
        """Record versions that a proxy or the Envoy validator rejected."""
        for rejection in rejections:
            if len(self._rejections) < _MAX_PENDING_REJECTIONS:
                self._rejections.setdefault(key_of(rejection), rejection)
                self._event.set()

    def record_disconnected(self, proxy_id: UUID) -> None:
        """Record that the last stream of a proxy has ended."""
        for state in self._states.pop(proxy_id, {}).values():
            state.connected = False
            for publication in self._unanswered.pop((proxy_id, state.type_url), ()):
                if publication.trace is not None:
                    publication.trace.forgo()
            self._mark_changed(state)

    def _state(self, proxy_id: UUID, type_url: str) -> TypeSync:
        of_proxy = self._states.setdefault(proxy_id, {})
        state = of_proxy.get(type_url)
        if state is None:
            state = of_proxy[type_url] = TypeSync(proxy_id, type_url)
        return state

    def _mark_changed(self, state: TypeSync) -> None:
        self._changed[state.proxy_id, state.type_url] = state
        self._event.set()

    # -- the time from a commit to its ACKs

    def _expect_answer(self, state: TypeSync, publication: Publication) -> None:
        waiting = self._unanswered.setdefault((state.proxy_id, state.type_url), deque())
        if len(waiting) < _MAX_UNANSWERED:
            waiting.append(publication)
            if publication.trace is not None:
                publication.trace.expect()

    def _record_converged(self, state: TypeSync) -> None:
        """Observe how long the publications took that a proxy has just accepted."""
        waiting = self._unanswered.get((state.proxy_id, state.type_url))
        if not waiting or state.accepted_at is None:
            return
        while waiting and waiting[0].revision <= (state.accepted_revision or 0):
            publication = waiting.popleft()
            took_s = (state.accepted_at - publication.committed_at).total_seconds()
            self._counters.convergence_s[state.type_url].observe(max(0.0, took_s))
            if publication.trace is not None:
                publication.trace.record_answer(state.proxy_id, state.type_url, None)

    def _record_rejected(self, state: TypeSync, error: str) -> None:
        """Forget the publications that a proxy has rejected: a later one replaces them, and is measured by itself."""
        for publication in self._unanswered.pop((state.proxy_id, state.type_url), ()):
            if publication.trace is not None:
                publication.trace.record_answer(state.proxy_id, state.type_url, error)

    # -- what is stored

    async def run(self) -> None:
        """Store changes in batches until cancelled, and what is pending then."""
        try:
            while True:
                try:
                    async with asyncio.timeout(_HEARTBEAT_EVERY_S):
                        await self._event.wait()
                    await asyncio.sleep(_FLUSH_S)
                except TimeoutError:
                    pass
                self._event.clear()
                await self._flush()
        finally:
            with suppress(TimeoutError):  # a PostgreSQL that does not answer must not delay the shutdown
                async with asyncio.timeout(_FINAL_FLUSH_S):
                    await self._flush()
                    await self._unregister()

    async def _flush(self) -> None:
        """Store what is pending. It stays pending if that fails or is cancelled."""
        changed, rejections, revision = self._changed, self._rejections, self._revision
        self._changed, self._rejections = {}, {}
        stored = False
        try:
            await self._store(changed.values(), rejections.values(), revision)
            stored = True
        except DatabaseUnreachable:
            self._event.set()
        except Exception:
            # the next attempt may succeed (after a deadlock); an answer of a proxy must not end the process
            log.exception("xds.acks_not_stored", answers=len(changed))
            self._event.set()
        finally:
            if not stored:
                self._changed = {**changed, **self._changed}
                self._rejections = {**rejections, **self._rejections}

    async def _store(self, changed: Iterable[TypeSync], rejections: Iterable[Rejection], revision: int | None) -> None:
        rejections = tuple(rejections)
        async with self._database.session() as session:
            await sync.record(session, self._replica, [*changed])
            known = await rollout.refresh_replica(session, self._replica, revision or 0, self._metrics_address)
        if not known:  # the replica was silent for too long: others counted its streams as gone
            for state in [each for of_proxy in self._states.values() for each in of_proxy.values()]:
                self._mark_changed(state)
        if rejections:
            async with write(self._database) as unit:
                await rollout.lock(unit.session)
                for rejection in rejections:
                    await rollout.record_rejection(unit, rejection, self._clock())

    async def _unregister(self) -> None:
        """Remove this replica from the database."""
        try:
            async with self._database.session() as session:
                await rollout.remove_replica(session, self._replica)
        except DatabaseUnreachable:
            return  # other replicas find out when the heartbeats end


def _rejections(identity: Identity, view: ProxyView, answered: Answered) -> Sequence[Rejection]:
    if answered.error is None:
        return ()
    at_fault = [answered.resources[name] for name in sorted(answered.at_fault)]
    keyed = [(_key(view, each), each) for each in at_fault if is_rolled_out(ResourceId(each.type_url, each.name))]
    return [
        Rejection(key, resource.version, identity.proxy_id, _storable(answered.error))
        for key, resource in keyed
        if key is not None
    ]


def _storable(text: str) -> str:
    """Replace what PostgreSQL's text type cannot hold."""
    return text.replace("\0", "\ufffd")


def _key(view: ProxyView, resource: Resource) -> ResourceKey | None:
    scope = view.scope_of(resource)
    return ResourceKey(scope, resource.type_url, resource.name) if scope else None
