"""Revisions: how a write becomes one, and how every replica learns of it.

PostgreSQL's revision is the truth; NOTIFY is a hint (docs/architecture.md#notify-is-a-hint). The revision row is locked by
the writing transaction as its last statement, so revisions commit in order and a reader that sees revision n sees all that n
changed.
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
from model.entities import ResourceKey
from model.tables import ChangeRow, RevisionRow
from model.world import Key, Kind


@dataclass(frozen=True, slots=True)
class TouchedRow:
    """What befell a thing: `created`, `changed` or `deleted`; None for rollout state, which is no event.

    `detail` is what events and the audit say of it: JSON values, no secret, no data of people.
    """

    action: str | None = None
    fleet_id: UUID | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def then(self, later: TouchedRow) -> TouchedRow:
        """Both in one: what is changed after it was created in the same unit was created."""
        action = self.action if self.action == "created" and later.action == "changed" else later.action
        return TouchedRow(action or self.action, later.fleet_id or self.fleet_id, {**self.detail, **later.detail})


@dataclass(slots=True)
class UnitOfWork:
    """One transaction that becomes one revision. Repositories write through it and say what they touched."""

    session: AsyncSession
    traceparent: str | None = None
    actor: Actor | None = None
    """On whose behalf; what nobody asked for (None) is not in the audit."""
    revision: int | None = None
    """The revision that the transaction became; None until it ended, or if it touched nothing."""
    touched: dict[tuple[Kind, str], TouchedRow] = field(default_factory=dict)
    _entries: list[AuditEntry] = field(default_factory=list)
    _sealed: bool = False

    def touch(
        self,
        kind: Kind,
        key: Key,
        action: str | None = None,
        *,
        fleet_id: UUID | None = None,
        detail: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Say that the thing under `key` was added, changed or removed."""
        what, new = (kind, encode_key(key)), TouchedRow(action, fleet_id, detail)
        before = self.touched.get(what)
        self.touched[what] = before.then(new) if before else new

    def audit(self, entry: AuditEntry) -> None:
        """Say what was done beside what was touched."""
        self._entries.append(entry)

    async def seal(self) -> None:
        """Take the next revision, leave the change-log rows and the audit's, and notify; all in the unit's transaction.

        Done once, at the end or before: after it nothing may be touched any more.
        """
        if self._sealed:
            return
        self._sealed = True
        if self.touched:
            await self._become_revision()
        if self.actor is not None:
            events = [
                AuditEntry(touch.action, kind, key, touch.fleet_id, touch.detail)
                for (kind, key), touch in self.touched.items()
                if touch.action
            ]
            await append(self.session, self.actor, [*self._entries, *events])

    async def _become_revision(self) -> None:
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
    """A unit that commits, as one revision, when the block ends well, and leaves nothing behind otherwise."""
    async with database.session() as session:
        unit = UnitOfWork(session, traceparent, actor)
        yield unit
        await unit.seal()


def encode_key(key: Key) -> str:
    """A World's key as the change log holds it: a UUID, or JSON for resources."""
    match key:
        case UUID():
            return str(key)
        case ResourceKey():
            return json.dumps([key.group, key.type_url, key.name])
        case (resource, version):
            return json.dumps([resource.group, resource.type_url, resource.name, version])


def decode_key(kind: Kind, raw: str) -> Key:
    """The inverse of `encode_key`."""
    if kind not in (Kind.ACCEPTED, Kind.REJECTION):
        return UUID(raw)
    group, type_url, name, *version = json.loads(raw)
    resource = ResourceKey(group, type_url, name)
    return (resource, version[0]) if version else resource
