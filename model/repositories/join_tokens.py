"""Join tokens: rights to enrol proxies, which are counted, and end when they are used up, expire or are revoked."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.tables import JoinTokenRow
from model.token_rights import LIFETIME, TokenRights

_AUDIT_REFUSALS_EVERY: Final = timedelta(minutes=1)
"""At most one refusal of a token in this time is audited, so that nobody can fill the audit with them."""


async def create(
    session: AsyncSession,
    rights: TokenRights,
    now: datetime,
    *,
    name: str = "",
    lifetime: timedelta = LIFETIME,
    created_by: UUID | None = None,
) -> tuple[JoinTokenRow, str]:
    """Create a join token; return its row and the secret. Only its digest is stored, so nobody can read it later."""
    secret = f"ep-{rights.role}-{secrets.token_urlsafe(32)}"
    row = JoinTokenRow(
        digest=_digest(secret),
        name=name or rights.proxy_name or rights.role,
        fleet_id=rights.fleet_id,
        role=rights.role,
        proxy_name=rights.proxy_name,
        takes_over=rights.takes_over,
        uses=rights.uses,
        expires_at=now + lifetime,
        created_at=now,
        created_by=created_by,
    )
    session.add(row)
    await session.flush()
    return row, secret


async def find(session: AsyncSession, secret: str) -> JoinTokenRow | None:
    """Find a join token, valid or not; None when it is unknown, or of release 0.1.0.

    The comparison is of digests of 256 random bits, so its duration tells nothing that helps to guess a token.
    """
    query = select(JoinTokenRow).where(col(JoinTokenRow.digest) == _digest(secret), col(JoinTokenRow.id).is_not(None))
    return (await session.execute(query)).scalar_one_or_none()


async def use(session: AsyncSession, token_id: UUID, proxy_name: str, now: datetime) -> bool:
    """Count a registration with a token. Return False when none is left, or the token has ended meanwhile.

    It is one statement, so of two that race for the last use exactly one gets it. The other waits for its transaction.
    """
    statement = (
        update(JoinTokenRow)
        .where(
            col(JoinTokenRow.id) == token_id,
            or_(col(JoinTokenRow.uses).is_(None), col(JoinTokenRow.used) < col(JoinTokenRow.uses)),
            col(JoinTokenRow.expires_at) > now,
            col(JoinTokenRow.revoked_at).is_(None),
        )
        .values(used=col(JoinTokenRow.used) + 1, last_used_at=now, last_used_by=proxy_name)
        .returning(col(JoinTokenRow.id))
        .execution_options(synchronize_session=False)
    )
    return (await session.execute(statement)).scalar_one_or_none() is not None


async def note_refusal(session: AsyncSession, token_id: UUID, now: datetime) -> bool:
    """Note that a token was refused. Return whether the audit should have it: once in _AUDIT_REFUSALS_EVERY."""
    lately = col(JoinTokenRow.refused_at) > now - _AUDIT_REFUSALS_EVERY
    statement = (
        update(JoinTokenRow)
        .where(col(JoinTokenRow.id) == token_id, or_(col(JoinTokenRow.refused_at).is_(None), ~lately))
        .values(refused_at=now)
        .returning(col(JoinTokenRow.id))
        .execution_options(synchronize_session=False)
    )
    return (await session.execute(statement)).scalar_one_or_none() is not None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
