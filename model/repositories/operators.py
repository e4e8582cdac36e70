"""Operators and their API keys. They are not configuration, so writes make no revision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.database import Database
from model.tables import ApiKeyRow, IdempotencyRow, OperatorRow

LAST_USED_PRECISION: Final = timedelta(minutes=1)
"""The precision of the stored time of an API key's last use."""
_LOCK: Final = 0x65706F70
"""The advisory lock of writers that may remove the last admin, or create the first."""


@dataclass(frozen=True, slots=True)
class OperatorRights:
    """The rights of an operator, as stored."""

    operator_id: UUID
    role: str
    fleets: frozenset[UUID] | None
    disabled: bool


@dataclass(frozen=True, slots=True)
class ApiKeyRights:
    """The rights of an API key and of its owner, as stored."""

    owner: OperatorRights
    key_id: UUID
    role: str
    fleets: frozenset[UUID] | None
    scopes: frozenset[str] | None
    expires_at: datetime | None


_IN_SESSION: Final = """
SELECT o.id, o.role, o.fleet_ids, o.disabled
FROM session s JOIN operator o ON o.id = s.operator_id
WHERE s.id = $1 AND o.id = $2 AND s.expires_at > $3
"""
_OF_KEY: Final = """
WITH noted AS (
    UPDATE api_key SET last_used_at = $2
    WHERE digest = $1 AND (last_used_at IS NULL OR last_used_at < $3) AND (expires_at IS NULL OR expires_at > $2)
)
SELECT o.id, o.role, o.fleet_ids, o.disabled,
    k.id AS key_id, k.role AS key_role, k.fleet_ids AS key_fleet_ids, k.scopes, k.expires_at
FROM api_key k JOIN operator o ON o.id = k.operator_id
WHERE k.digest = $1
"""


async def rights_in_session(
    database: Database, session_id: UUID, operator_id: UUID, now: datetime
) -> OperatorRights | None:
    """Return the rights of a logged-in operator; None when the session has ended. One statement."""
    rows = await database.fetch(_IN_SESSION, session_id, operator_id, now)
    return _rights(rows[0]) if rows else None


async def rights_of_key(database: Database, digest: str, now: datetime) -> ApiKeyRights | None:
    """Return the rights of an API key by its SHA-256; None when it is unknown. One statement, which also records the use."""
    rows = await database.fetch(_OF_KEY, digest, now, now - LAST_USED_PRECISION)
    if not rows:
        return None
    row = rows[0]
    scopes, fleets = row["scopes"], read_fleet_ids(row["key_fleet_ids"])
    return ApiKeyRights(
        _rights(row),
        row["key_id"],
        row["key_role"],
        fleets,
        None if scopes is None else frozenset(scopes),
        row["expires_at"],
    )


def _rights(row: Mapping[str, Any]) -> OperatorRights:
    return OperatorRights(row["id"], row["role"], read_fleet_ids(row["fleet_ids"]), row["disabled"])


def read_fleet_ids(stored: list[str] | None) -> frozenset[UUID] | None:
    """Read a stored list of fleet ids; None: all fleets."""
    return None if stored is None else frozenset(map(UUID, stored))


async def any_operator(session: AsyncSession) -> bool:
    """Tell whether any operator exists."""
    return bool((await session.execute(select(select(col(OperatorRow.id)).exists()))).scalar_one())


async def count_admins(session: AsyncSession) -> int:
    """Count the enabled admins of all fleets."""
    admins = select(func.count()).where(
        col(OperatorRow.role) == "admin", ~col(OperatorRow.disabled), col(OperatorRow.fleet_ids).is_(None)
    )
    return int((await session.execute(admins)).scalar_one())


async def lock_admins(session: AsyncSession) -> None:
    """Lock the set of admins until the transaction ends."""
    await session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})


async def find_named(session: AsyncSession, name: str) -> OperatorRow | None:
    """Find an operator by name."""
    return (await session.execute(select(OperatorRow).where(col(OperatorRow.name) == name))).scalar_one_or_none()


async def find_by_subject(session: AsyncSession, subject: str) -> OperatorRow | None:
    """Find an operator by the `issuer#subject` of the bound OIDC account."""
    query = select(OperatorRow).where(col(OperatorRow.oidc_subject) == subject)
    return (await session.execute(query)).scalar_one_or_none()


async def find(session: AsyncSession, operator_id: UUID) -> OperatorRow | None:
    """Find an operator by id."""
    return await session.get(OperatorRow, operator_id)


async def lock(session: AsyncSession, operator_id: UUID) -> OperatorRow | None:
    """Lock an operator until the transaction ends, and return the row as it is now."""
    return await session.get(OperatorRow, operator_id, with_for_update=True, populate_existing=True)


async def save(session: AsyncSession, row: OperatorRow | ApiKeyRow) -> None:
    """Add a row, or save a changed one. Raises sqlalchemy.exc.IntegrityError when its name is taken."""
    session.add(row)
    await session.flush()


async def save_changes(session: AsyncSession, row: OperatorRow | ApiKeyRow, fields: Mapping[str, Any]) -> list[str]:
    """Give a row new values. Return the names of the fields that changed."""
    changed = sorted(name for name, value in fields.items() if getattr(row, name) != value)
    for name in changed:
        setattr(row, name, fields[name])
    await session.flush()
    return changed


async def remove(session: AsyncSession, row: OperatorRow) -> None:
    """Remove an operator with all sessions, API keys, and stored replies to requests about or by the operator."""
    about = or_(col(IdempotencyRow.body).contains(str(row.id)), col(IdempotencyRow.actor_id) == row.id)
    await session.execute(delete(IdempotencyRow).where(about))
    await session.delete(row)
    await session.flush()


async def remove_key(session: AsyncSession, row: ApiKeyRow) -> None:
    """Remove an API key."""
    await session.delete(row)
    await session.flush()


async def find_key(session: AsyncSession, key_id: UUID) -> ApiKeyRow | None:
    """Find an API key by id."""
    return await session.get(ApiKeyRow, key_id)


async def use_totp_step(session: AsyncSession, operator_id: UUID, step: int) -> bool:
    """Use up a TOTP time step of an operator. Return False when it, or a later one, was used before."""
    used = col(OperatorRow.totp_step)
    statement = (
        update(OperatorRow)
        .where(col(OperatorRow.id) == operator_id, or_(used.is_(None), used < step))
        .values(totp_step=step)
        .returning(col(OperatorRow.id))
    )
    return (await session.execute(statement)).scalar_one_or_none() is not None
