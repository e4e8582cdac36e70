"""The audit: who did what, append-only, each entry bound to the one before it by its hash.

People appear by id alone, so that their data can be deleted (with their row) and the chain holds. An entry's hash is SHA-256
over its fields as canonical JSON, the hash of the one before it among them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from model.tables import AuditHeadRow, AuditRow


@dataclass(frozen=True, slots=True)
class Actor:
    """On whose behalf something is done: an operator, maybe by way of an API key; neither: nobody that is known."""

    operator_id: UUID | None = None
    api_key_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What was done: an action (`created`, `login`), to what kind of thing, and which one.

    `detail` holds JSON values, and no data of people.
    """

    action: str
    kind: str
    object_id: str | None = None
    fleet_id: UUID | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


async def append(session: AsyncSession, actor: Actor, entries: Sequence[AuditEntry]) -> None:
    """Add entries to the chain, in the session's transaction. Whoever else adds waits until it ends."""
    if not entries:
        return
    head = (await session.execute(select(AuditHeadRow).with_for_update())).scalar_one()
    sequence, previous = head.sequence, head.hash
    now = datetime.now(UTC)
    for entry in entries:
        sequence += 1
        row = AuditRow(
            sequence=sequence,
            at=now,
            actor_id=actor.operator_id,
            api_key_id=actor.api_key_id,
            action=entry.action,
            kind=entry.kind,
            object_id=entry.object_id,
            fleet_id=entry.fleet_id,
            detail=_as_stored(json.loads(_canonical(dict(entry.detail)))),
            previous=previous,
            hash="",
        )
        previous = row.hash = hash_of(row)
        session.add(row)
    await session.flush()
    await session.execute(update(AuditHeadRow).values(sequence=sequence, hash=previous))


def hash_of(row: AuditRow) -> str:
    """The hash that a row must have, by what else it holds."""
    return hashlib.sha256(_canonical(row.model_dump(exclude={"hash"})).encode()).hexdigest()


def _as_stored(value: Any) -> Any:
    """A JSON value as PostgreSQL will give it back: its numbers do not know whether they had a point."""
    match value:
        case dict():
            return {name: _as_stored(each) for name, each in value.items()}
        case list():
            return [_as_stored(each) for each in value]
        case float() if value.is_integer():
            return int(value)
    return value


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def _plain(value: object) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)
