"""Writes down where proxies stand, and what they rejected, in batches off the stream's path."""

from __future__ import annotations

import asyncio
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
from xds.protocol.stream import Answered
from xds.snapshot.order import ROLLED_OUT
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import ProxyView

_FLUSH_S: Final = 0.25
_BEAT_EVERY_S: Final = 2.0
_LAST_WORDS_S: Final = 3.0
_MOST_REJECTIONS: Final = 10_000

log = structlog.get_logger()


class AckRecorder:
    """Collects where proxies stand and stores it; `run` is its task.

    `revision` gives the newest revision that all streams were told of, or None before the first.
    """

    def __init__(
        self, database: Database, replica: UUID, revision: Callable[[], int | None], clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._replica = replica
        self._revision = revision
        self._clock = clock
        self._standings: dict[UUID, dict[str, TypeSync]] = {}
        self._changed: dict[tuple[UUID, str], TypeSync] = {}
        self._rejections: dict[tuple[ResourceKey, str], Rejection] = {}
        self._event = asyncio.Event()

    # -- what streams say

    def standings(self, proxy_id: UUID) -> Mapping[str, TypeSync]:
        """Where a proxy with a stream stands, by type URL."""
        return self._standings.get(proxy_id, {})

    def subscribed(self, proxy_id: UUID, type_url: str, revision: int) -> None:
        """A proxy asked for a type; what it should have is that of the World at `revision`."""
        self._standing(proxy_id, type_url)
        self.wanted(proxy_id, type_url, revision)

    def wanted(self, proxy_id: UUID, type_url: str, revision: int) -> None:
        """Since `revision` a proxy should have something else of a type, if it asks for that at all."""
        standing = self.standings(proxy_id).get(type_url)
        if standing is not None and revision > standing.wanted_revision:
            standing.wanted_revision, standing.wanted_at = revision, self._clock()
            self._note(standing)

    def sent(self, proxy_id: UUID, type_url: str, revision: int) -> None:
        """A response made of the World at `revision` was sent."""
        standing = self._standing(proxy_id, type_url)
        standing.sent_revision, standing.sent_at = revision, self._clock()
        self._note(standing)

    def settled(self, standing: TypeSync) -> None:
        """The proxy holds all that it should of a type."""
        standing.accepted_revision, standing.accepted_at = standing.wanted_revision, self._clock()
        self._note(standing)

    def answered(self, identity: Identity, view: ProxyView, answered: Answered, *, kept: bool) -> Sequence[Rejection]:
        """A response was accepted or rejected; gives the rejections of versions that nobody else is to be sent.

        One who is `kept` from what is wanted has not accepted that, whatever it was given in its place.
        """
        standing = self._standing(identity.proxy_id, answered.type_url)
        rejections = _rejections(identity, view, answered)
        if answered.error is None:
            revision = min(answered.revision, standing.wanted_revision - 1) if kept else answered.revision
            standing.accepted_revision, standing.accepted_at = revision, self._clock()
        else:
            log.warning(
                "xds.nack",
                node=str(identity.proxy_id),
                type=answered.type_url,
                versions={name: resource.version for name, resource in answered.given.items()},
                detail=answered.error,
            )
            standing.rejected_revision, standing.rejected_at = answered.revision, self._clock()
            standing.detail = _storable(answered.error)
            self.refused(rejections)
        self._note(standing)
        return rejections

    def refused(self, rejections: Iterable[Rejection]) -> None:
        """These versions were refused."""
        for rejection in rejections:
            if len(self._rejections) < _MOST_REJECTIONS:
                self._rejections.setdefault((rejection.key, rejection.version), rejection)
                self._event.set()

    def gone(self, proxy_id: UUID) -> None:
        """The last stream of a proxy has ended."""
        for standing in self._standings.pop(proxy_id, {}).values():
            standing.connected = False
            self._note(standing)

    def _standing(self, proxy_id: UUID, type_url: str) -> TypeSync:
        of_proxy = self._standings.setdefault(proxy_id, {})
        standing = of_proxy.get(type_url)
        if standing is None:
            standing = of_proxy[type_url] = TypeSync(proxy_id, type_url)
        return standing

    def _note(self, standing: TypeSync) -> None:
        self._changed[standing.proxy_id, standing.type_url] = standing
        self._event.set()

    # -- what is stored

    async def run(self) -> None:
        """Store what was noted, in batches, until cancelled; what is pending then is stored too."""
        try:
            while True:
                try:
                    async with asyncio.timeout(_BEAT_EVERY_S):
                        await self._event.wait()
                    await asyncio.sleep(_FLUSH_S)
                except TimeoutError:
                    pass
                self._event.clear()
                await self._flush()
        finally:
            with suppress(TimeoutError):  # a PostgreSQL that does not answer must not hold up the end
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self._flush()
                    await self._retire()

    async def _flush(self) -> None:
        """Store what is pending; what could not be stored stays, also if this is cancelled."""
        changed, rejections, revision = self._changed, self._rejections, self._revision()
        self._changed, self._rejections = {}, {}
        stored = False
        try:
            await self._store(changed.values(), rejections.values(), revision)
            stored = True
        except DatabaseUnreachable:
            self._event.set()
        except Exception:
            # the next attempt may do better (a deadlock); what proxies answered must not end the process
            log.exception("xds.answers_not_written", answers=len(changed))
            self._event.set()
        finally:
            if not stored:
                self._changed = {**changed, **self._changed}
                self._rejections = {**rejections, **self._rejections}

    async def _store(self, changed: Iterable[TypeSync], rejections: Iterable[Rejection], revision: int | None) -> None:
        rejections = tuple(rejections)
        async with self._database.session() as session:
            await sync.record(session, self._replica, [*changed])
            known = await rollout.refresh_replica(session, self._replica, revision or 0)
        if not known:  # it was silent for too long, and its streams were held to be gone
            for standing in [each for of_proxy in self._standings.values() for each in of_proxy.values()]:
                self._note(standing)
        if rejections:
            async with write(self._database) as unit:
                await rollout.lock(unit.session)
                for rejection in rejections:
                    await rollout.record_rejection(unit, rejection, self._clock())

    async def _retire(self) -> None:
        try:
            async with self._database.session() as session:
                await rollout.remove_replica(session, self._replica)
        except DatabaseUnreachable:
            return  # the others find out by themselves


def _rejections(identity: Identity, view: ProxyView, answered: Answered) -> Sequence[Rejection]:
    if answered.error is None or answered.type_url not in ROLLED_OUT:
        return ()
    keyed = [(_key(view, answered.given[name]), answered.given[name]) for name in sorted(answered.at_fault)]
    return [
        Rejection(key, resource.version, identity.proxy_id, _storable(answered.error))
        for key, resource in keyed
        if key is not None
    ]


def _storable(text: str) -> str:
    """What a client said, without what PostgreSQL's text cannot hold."""
    return text.replace("\0", "\ufffd")


def _key(view: ProxyView, resource: Resource) -> ResourceKey | None:
    scope = view.scope_of(resource)
    return ResourceKey(scope, resource.type_url, resource.name) if scope else None
