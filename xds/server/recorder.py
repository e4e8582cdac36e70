"""Writes down what proxies answered: their sync status, and the rollout state, in batches off the stream's path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from model.changes import write
from model.database import Database, DatabaseUnreachable
from model.identity import Identity
from model.repositories import rollout
from model.repositories.rollout import Sync
from model.world import Accepted, Rejection, ResourceKey
from xds.protocol.stream import Answered
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import View
from xds.translate.names import CLUSTER, EXTENSION, LISTENER, ROUTE, SCOPED_ROUTE

ROLLED_OUT: Final = frozenset({CLUSTER, EXTENSION, LISTENER, ROUTE, SCOPED_ROUTE})
"""Types whose accepted bytes are kept to fall back to. Endpoints are not: an older list would offer dead exits."""
_FLUSH_S: Final = 0.25
_MOST_PENDING: Final = 100_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Answer:
    identity: Identity
    view: View
    answered: Answered
    at: datetime


class Recorder:
    """Collects answers and stores them, newest first to matter; `run` is its task."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._pending: list[_Answer] = []
        self._accepted: dict[ResourceKey, str] = {}
        """The version stored last, so that a thousand proxies' ACKs are one write."""
        self._event = asyncio.Event()

    def record(self, identity: Identity, view: View, answered: Answered) -> None:
        """Take note of an answer; returns at once."""
        if answered.error is not None:
            log.warning(
                "xds.nack",
                node=str(identity.proxy_id),
                type=answered.type_url,
                versions={name: resource.version for name, resource in answered.given.items()},
                detail=answered.error,
            )
        if len(self._pending) < _MOST_PENDING:
            self._pending.append(_Answer(identity, view, answered, self._clock()))
        self._event.set()

    async def run(self) -> None:
        """Store what was noted, in batches, until cancelled; what is pending then is stored too."""
        try:
            while True:
                await self._event.wait()
                await asyncio.sleep(_FLUSH_S)
                self._event.clear()
                await self._flush()
        finally:
            await self._flush()

    async def _flush(self) -> None:
        """Store what is pending; what could not be stored stays, also if this is cancelled."""
        batch = self._pending[:]
        if not batch:
            return
        try:
            await self._store(batch)
        except DatabaseUnreachable:
            self._event.set()
        except Exception:
            # the next attempt may do better (a deadlock); what proxies answered must not end the process
            log.exception("xds.answers_not_written", answers=len(batch))
            self._event.set()
        else:
            del self._pending[: len(batch)]

    async def _store(self, batch: Sequence[_Answer]) -> None:
        accepted = {entry.key: entry for answer in batch for entry in self._accepted_by(answer)}
        rejected: dict[tuple[ResourceKey, str], Rejection] = {}
        for entry in (entry for answer in batch for entry in _rejected_by(answer)):
            rejected.setdefault((entry.key, entry.version), entry)
        async with write(self._database) as unit:
            await rollout.record_sync(unit.session, [_sync(answer) for answer in batch])
            if accepted or rejected:
                await rollout.lock(unit.session)
            for rejection in rejected.values():
                await rollout.record_rejection(unit, rejection, self._clock())
            for taken in accepted.values():
                await rollout.record_accepted(unit, taken, self._clock())
        self._accepted |= {key: entry.version for key, entry in accepted.items()}

    def _accepted_by(self, answer: _Answer) -> Sequence[Accepted]:
        if answer.answered.error is not None or answer.answered.type_url not in ROLLED_OUT:
            return ()
        keyed = [(_key(answer.view, resource), resource) for resource in answer.answered.given.values()]
        return [
            Accepted(key, resource.version, resource.body)
            for key, resource in keyed
            if key is not None and self._accepted.get(key) != resource.version
        ]


def _rejected_by(answer: _Answer) -> Sequence[Rejection]:
    answered = answer.answered
    if answered.error is None or answered.type_url not in ROLLED_OUT:
        return ()
    keyed = [(_key(answer.view, answered.given[name]), answered.given[name]) for name in sorted(answered.at_fault)]
    return [
        Rejection(key, resource.version, answer.identity.proxy_id, _storable(answered.error))
        for key, resource in keyed
        if key is not None
    ]


def _sync(answer: _Answer) -> Sync:
    answered = answer.answered
    return Sync(
        proxy_id=answer.identity.proxy_id,
        type_url=answered.type_url,
        revision=answered.revision,
        accepted=answered.error is None,
        detail=_storable(answered.error or ""),
        at=answer.at,
    )


def _storable(text: str) -> str:
    """What a client said, without what PostgreSQL's text cannot hold."""
    return text.replace("\0", "\ufffd")


def _key(view: View, resource: Resource) -> ResourceKey | None:
    scope = view.scope_of(resource)
    return ResourceKey(scope, resource.type_url, resource.name) if scope else None
