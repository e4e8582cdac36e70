"""The audit: an append-only log of who did what, as a hash chain.

People appear by id only, so that deleting their data (their row) leaves the chain intact. An entry's hash is SHA-256 over its
fields as canonical JSON, which include the hash of the previous entry.
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
    """The operator on whose behalf something is done, and the API key if one was used. Neither: an unauthenticated caller."""

    operator_id: UUID | None = None
    api_key_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An action (`created`, `login`) on a thing of a kind.

    `detail` holds JSON values, and no personal data.
    """

    action: str
    kind: str
    object_id: str | None = None
    fleet_id: UUID | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


async def append(session: AsyncSession, actor: Actor, entries: Sequence[AuditEntry]) -> None:
    """Append entries to the chain, in the session's transaction. Other writers of the audit wait until it ends."""
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
    """Compute the hash of a row from its other fields."""
    return hashlib.sha256(_canonical(row.model_dump(exclude={"hash"})).encode()).hexdigest()


def _as_stored(value: Any) -> Any:
    """Return a JSON value as PostgreSQL returns it: jsonb does not distinguish 1.0 from 1."""
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
