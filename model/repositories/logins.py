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


async def ensure_signing_key(session: AsyncSession, made: bytes) -> bytes:
    """The one key of all replicas; the first caller's is kept, for the row's own uniqueness is the lock."""
    query = select(col(SigningKeyRow.secret)).where(col(SigningKeyRow.id) == 1)
    kept = (await session.execute(query)).scalar_one_or_none()
    if kept is None:
        await session.execute(insert(SigningKeyRow).values(id=1, secret=made).on_conflict_do_nothing())
        kept = (await session.execute(query)).scalar_one()
    return kept


# -- sessions ----------------------------------------------------------------------------------------------------------


async def start_session(session: AsyncSession, row: SessionRow) -> None:
    """Begin a session."""
    session.add(row)
    await session.flush()


async def lock_session(session: AsyncSession, session_id: UUID) -> SessionRow | None:
    """A session, held against whoever else would refresh it."""
    return await session.get(SessionRow, session_id, with_for_update=True, populate_existing=True)


async def end_session(session: AsyncSession, session_id: UUID) -> bool:
    """End a session; False when it had ended."""
    statement = delete(SessionRow).where(col(SessionRow.id) == session_id).returning(col(SessionRow.id))
    return (await session.execute(statement)).scalar_one_or_none() is not None


async def end_sessions(session: AsyncSession, operator_id: UUID, *, but: UUID | None = None) -> None:
    """End all sessions of an operator, or all but one."""
    statement = delete(SessionRow).where(col(SessionRow.operator_id) == operator_id)
    await session.execute(statement if but is None else statement.where(col(SessionRow.id) != but))


# -- failures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoginAllowance:
    """How many failures are free. The last of these blocks for a second, each further one twice as long as the one before."""

    free: int
    longest: timedelta
    forgotten_after: timedelta


async def count_attempt(
    session: AsyncSession, allowances: Mapping[str, LoginAllowance], now: datetime
) -> datetime | None:
    """Count an attempt as failed for each of these keys; or, while one of them is blocked, say until when.

    It is counted before anybody knows whether it fails, so that many at once do not all pass; `reset_failures` takes it back.
    """
    rows = await _hold(session, allowances, now)
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
    """Forget the failures of these keys."""
    await session.execute(delete(ThrottleRow).where(col(ThrottleRow.key).in_(keys)))


async def count_refused(session: AsyncSession, key: str, now: datetime) -> int | None:
    """Count an attempt that was refused unseen. Once a second: how many these were since it was told last; else None."""
    (row,) = await _hold(session, [key], now)
    row.failures += 1
    row.at = now
    if row.blocked_until > now:
        return None
    count, row.failures, row.blocked_until = row.failures, 0, now + REPORT_REFUSED_EVERY
    return count


async def remember_known(session: AsyncSession, key: str, now: datetime) -> None:
    """Note a key as good, for KEEP_THROTTLES_FOR."""
    (row,) = await _hold(session, [key], now)
    row.at = now


async def is_known(session: AsyncSession, key: str) -> bool:
    """Whether a key was noted as good lately."""
    return await session.get(ThrottleRow, key) is not None


async def _hold(session: AsyncSession, keys: Collection[str], now: datetime) -> list[ThrottleRow]:
    """The rows of these keys, locked; in one order, so that two at once do not wait for each other."""
    ordered = sorted(keys)
    new = [{"key": key, "failures": 0, "blocked_until": now, "at": now} for key in ordered]
    await session.execute(insert(ThrottleRow).values(new).on_conflict_do_nothing())
    query = select(ThrottleRow).where(col(ThrottleRow.key).in_(ordered)).order_by(col(ThrottleRow.key))
    return list((await session.execute(query.with_for_update().execution_options(populate_existing=True))).scalars())
