"""Sessions of operators, failed logins, and the key that signs tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.tables import SessionRow, SigningKeyRow, ThrottleRow

KEEP_THROTTLES_FOR: Final = timedelta(days=30)
REPORT_REFUSED_EVERY: Final = timedelta(seconds=1)


async def ensure_signing_key(session: AsyncSession, new_key: bytes) -> bytes:
    """Return the one key of all replicas. The first caller's is stored; the primary key resolves the race."""
    query = select(col(SigningKeyRow.secret)).where(col(SigningKeyRow.id) == 1)
    kept = (await session.execute(query)).scalar_one_or_none()
    if kept is None:
        await session.execute(insert(SigningKeyRow).values(id=1, secret=new_key).on_conflict_do_nothing())
        kept = (await session.execute(query)).scalar_one()
    return kept


# -- sessions ----------------------------------------------------------------------------------------------------------


async def start_session(session: AsyncSession, row: SessionRow) -> None:
    """Store a new session."""
    session.add(row)
    await session.flush()


async def lock_session(session: AsyncSession, session_id: UUID) -> SessionRow | None:
    """Lock a session against concurrent refreshes, and return it."""
    return await session.get(SessionRow, session_id, with_for_update=True, populate_existing=True)


async def end_session(session: AsyncSession, session_id: UUID) -> bool:
    """End a session. Return False when it had ended already."""
    statement = delete(SessionRow).where(col(SessionRow.id) == session_id).returning(col(SessionRow.id))
    return (await session.execute(statement)).scalar_one_or_none() is not None


async def end_sessions(session: AsyncSession, operator_id: UUID, *, but: UUID | None = None) -> None:
    """End all sessions of an operator, or all except one."""
    statement = delete(SessionRow).where(col(SessionRow.operator_id) == operator_id)
    await session.execute(statement if but is None else statement.where(col(SessionRow.id) != but))


# -- failures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoginAllowance:
    """The allowance of failed logins. Failure number `free` blocks for 1 s, and each further one twice as long, up to `longest`."""

    free: int
    longest: timedelta
    forgotten_after: timedelta


async def count_attempt(
    session: AsyncSession, allowances: Mapping[str, LoginAllowance], now: datetime
) -> datetime | None:
    """Count an attempt as failed for each of these keys. While one of them is blocked, return the end of the block instead.

    The attempt counts before its outcome is known, so that concurrent attempts cannot all pass. `reset_failures` takes it back.
    """
    rows = await _lock_rows(session, allowances, now)
    until = max(row.blocked_until for row in rows)
    if until > now:
        return until
    for row in rows:
        allowance = allowances[row.key]
        row.failures = 1 if row.at < now - allowance.forgotten_after else row.failures + 1
        row.at = now
        over = row.failures - allowance.free
        if over >= 0:
            row.blocked_until = now + min(timedelta(seconds=2 ** min(over, 30)), allowance.longest)
    await session.flush()
    return None


async def reset_failures(session: AsyncSession, keys: Collection[str]) -> None:
    """Delete the failures of these keys."""
    await session.execute(delete(ThrottleRow).where(col(ThrottleRow.key).in_(keys)))


async def count_refused(session: AsyncSession, key: str, now: datetime) -> int | None:
    """Count an attempt that was refused unchecked. Once a second, return the number since the last report; otherwise None."""
    (row,) = await _lock_rows(session, [key], now)
    row.failures += 1
    row.at = now
    if row.blocked_until > now:
        return None
    count, row.failures, row.blocked_until = row.failures, 0, now + REPORT_REFUSED_EVERY
    return count


async def remember_known(session: AsyncSession, key: str, now: datetime) -> None:
    """Remember a key as known for KEEP_THROTTLES_FOR."""
    (row,) = await _lock_rows(session, [key], now)
    row.at = now


async def is_known(session: AsyncSession, key: str) -> bool:
    """Tell whether a key is remembered as known."""
    return await session.get(ThrottleRow, key) is not None


async def _lock_rows(session: AsyncSession, keys: Collection[str], now: datetime) -> list[ThrottleRow]:
    """Lock the rows of these keys, and create missing ones. The fixed order prevents deadlocks."""
    ordered = sorted(keys)
    new = [{"key": key, "failures": 0, "blocked_until": now, "at": now} for key in ordered]
    await session.execute(insert(ThrottleRow).values(new).on_conflict_do_nothing())
    query = select(ThrottleRow).where(col(ThrottleRow.key).in_(ordered)).order_by(col(ThrottleRow.key))
    return list((await session.execute(query.with_for_update().execution_options(populate_existing=True))).scalars())
