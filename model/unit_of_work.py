"""The unit of work: one transaction that becomes one revision, with its rows in the change log and the audit.

The transaction locks the revision row as its last statement, so revisions commit in order, and a reader of revision n sees
everything that n changed (docs/architecture.md#notify-is-a-hint).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.audit_log import Actor, AuditEntry, append
from model.change_feed import REVISION_CHANNEL, notify
from model.database import Database
from model.entities import VALIDATOR, ResourceKey
from model.tables import ChangeRow, RevisionRow
from model.telemetry.spans import span
from model.world import Key, Kind


@dataclass(frozen=True, slots=True)
class TouchedRow:
    """A row that a unit of work wrote. `action` is `created`, `changed` or `deleted`; None for rollout state, which is no event.

    `detail` goes into events and the audit: JSON values, no secrets, no personal data.
    """

    action: str | None = None
    fleet_id: UUID | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def merged_with(self, later: TouchedRow) -> TouchedRow:
        """Merge with a later write of the same unit. A row that is created and then changed counts as created."""
        action = self.action if self.action == "created" and later.action == "changed" else later.action
        return TouchedRow(action or self.action, later.fleet_id or self.fleet_id, {**self.detail, **later.detail})


@dataclass(slots=True)
class UnitOfWork:
    """One transaction that becomes one revision. Repositories write through it and record what they touched."""

    session: AsyncSession
    traceparent: str | None = None
    actor: Actor | None = None
    """The author of the write. Writes without one (None), as the keeper's, are not in the audit."""
    revision: int | None = None
    """The revision of this write; None before `seal`, and when nothing was touched."""
    touched: dict[tuple[Kind, str], TouchedRow] = field(default_factory=dict)
    _entries: list[AuditEntry] = field(default_factory=list)
    _sealed: bool = False
    _in_batch: bool = False

    def touch(
        self,
        kind: Kind,
        key: Key,
        action: str | None = None,
        *,
        fleet_id: UUID | None = None,
        detail: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Record that the row under `key` was created, changed or deleted."""
        entry, new = (kind, encode_key(key)), TouchedRow(action, fleet_id, detail)
        before = self.touched.get(entry)
        self.touched[entry] = before.merged_with(new) if before else new

    async def flush(self) -> None:
        """Send the rows that were added, changed or deleted to PostgreSQL. Within `batch` they wait for its end.

        Raises sqlalchemy.exc.IntegrityError for a row that violates a constraint.
        """
        if not self._in_batch:
            await self.session.flush()

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[None]:
        """Send all rows that the block saves or removes together, in few statements, when the block ends.

        No row of the block may refer to another one. Raises sqlalchemy.exc.IntegrityError at the end of the block, for
        whichever row violates a constraint.
        """
        self._in_batch = True
        try:
            with self.session.no_autoflush:
                yield
        finally:
            self._in_batch = False
        await self.flush()

    def audit(self, entry: AuditEntry) -> None:
        """Add an audit entry besides those of touched rows."""
        self._entries.append(entry)

    async def seal(self) -> None:
        """Take the next revision, write change log and audit, and notify, all in the unit's transaction.

        It happens once, at the end or earlier; nothing may be touched after it.
        """
        if self._sealed:
            return
        self._sealed = True
        if self.touched:
            await self._take_revision()
        if self.actor is not None:
            events = [
                AuditEntry(touch.action, kind, key, touch.fleet_id, touch.detail)
                for (kind, key), touch in self.touched.items()
                if touch.action
            ]
            await append(self.session, self.actor, [*self._entries, *events])

    async def _take_revision(self) -> None:
        await self.session.flush()
        bump = update(RevisionRow).values(value=col(RevisionRow.value) + 1).returning(col(RevisionRow.value))
        self.revision = (await self.session.execute(bump)).scalar_one()
        now = datetime.now(UTC)
        self.session.add_all(
            ChangeRow(
                revision=self.revision,
                kind=kind,
                key=key,
                at=now,
                traceparent=self.traceparent,
                action=touch.action,
                fleet_id=touch.fleet_id,
                detail=dict(touch.detail) if touch.action else None,
            )
            for (kind, key), touch in self.touched.items()
        )
        await self.session.flush()
        await notify(self.session, REVISION_CHANNEL, str(self.revision))


@asynccontextmanager
async def write(
    database: Database, *, traceparent: str | None = None, actor: Actor | None = None
) -> AsyncIterator[UnitOfWork]:
    """Open a unit of work that commits as one revision when the block ends without an error, and rolls back otherwise."""
    with span("transaction", traceparent) as traced:
        async with database.session() as session:
            unit = UnitOfWork(session, traceparent if traced is None else traced.traceparent, actor)
            yield unit
            await unit.seal()
        if traced is not None and unit.revision is not None:
            traced.set(exitplane__revision=unit.revision, exitplane__changes=len(unit.touched))


def encode_key(key: Key) -> str:
    """Encode a World's key for the change log: a UUID, or JSON for resources."""
    match key:
        case UUID():
            return str(key)
        case ResourceKey():
            return json.dumps([key.group, key.type_url, key.name])
        case (resource, version, proxy_id):
            return json.dumps([resource.group, resource.type_url, resource.name, version, str(proxy_id)])


def decode_key(kind: Kind, raw: str) -> Key:
    """Decode what `encode_key` made."""
    if kind not in (Kind.ACCEPTED, Kind.REJECTION):
        return UUID(raw)
    group, type_url, name, *rejection = json.loads(raw)
    resource = ResourceKey(group, type_url, name)
    if not rejection:
        return resource
    version, *proxy_id = rejection  # replicas of release 0.1.0 write no proxy
    return resource, version, UUID(proxy_id[0]) if proxy_id else VALIDATOR
