"""The certificate authority, join tokens, and the certificates that were signed."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.authority import LEAF_LIFETIME, CertificateAuthority
from model.database import Database
from model.entities import Role
from model.exit_states import ExitState
from model.request_signature import public_key_of, thumbprint_of
from model.tables import AuthorityRow, CertificateRow, JoinTokenRow, RemovedProxyRow
from model.unit_of_work import UnitOfWork

_CREDENTIALS: Final = """
SELECT certificate.thumbprint, certificate.public_key, certificate.expires_at, proxy.id, proxy.role, exit.state
FROM certificate JOIN proxy ON proxy.id = certificate.proxy_id LEFT JOIN exit ON exit.id = proxy.id
WHERE certificate.thumbprint = ANY($1)
"""


@dataclass(frozen=True, slots=True)
class Credential:
    """The proxy that a certificate identifies. `public_key` is PEM; `state` is the exit's, None for a gateway."""

    proxy_id: UUID
    role: Role
    public_key: str
    expires_at: datetime
    state: ExitState | None


async def ensure_authority(session: AsyncSession, create: Callable[[], CertificateAuthority]) -> CertificateAuthority:
    """Return the one authority; the first caller creates it."""
    row = await session.get(AuthorityRow, 1)
    if row is None:
        created = create()
        statement = insert(AuthorityRow).values(id=1, certificate=created.certificate_pem, key=created.key_pem)
        await session.execute(statement.on_conflict_do_nothing())
        row = (await session.execute(select(AuthorityRow))).scalar_one()
    return CertificateAuthority(row.certificate, row.key)


async def create_token(
    session: AsyncSession, *, fleet_id: UUID, role: Role, ttl: timedelta, now: datetime, name: str | None = None
) -> str:
    """Create a join token. Only its digest is stored, so nobody can read it later.

    A token with a `name` is valid only for a proxy of this name, and after its first use only for the same key.
    """
    token = f"ep-{role}-{secrets.token_urlsafe(32)}"
    session.add(JoinTokenRow(digest=_digest(token), fleet_id=fleet_id, role=role, expires_at=now + ttl, name=name))
    await session.flush()
    return token


async def find_token(session: AsyncSession, token: str, now: datetime) -> JoinTokenRow | None:
    """Find a join token; None when it is unknown or expired."""
    row = await session.get(JoinTokenRow, _digest(token))
    return row if row and row.expires_at > now else None


async def use_token(session: AsyncSession, token: JoinTokenRow, public_key_pem: str) -> bool:
    """Record that a key enrols with a token. Return False when the token belongs to another key."""
    if token.name is None:
        return True
    used_by = _digest(public_key_pem)
    locked = await session.get(JoinTokenRow, token.digest, with_for_update=True, populate_existing=True)
    if locked is None or locked.used_by not in (None, used_by):
        return False
    locked.used_by = used_by
    return True


async def record_certificate(unit: UnitOfWork, proxy_id: UUID, certificate_pem: str, now: datetime) -> None:
    """Store a certificate's public key, with which request signatures are verified."""
    unit.session.add(
        CertificateRow(
            thumbprint=thumbprint_of(certificate_pem),
            proxy_id=proxy_id,
            public_key=public_key_of(certificate_pem),
            issued_at=now,
            expires_at=now + LEAF_LIFETIME,
        )
    )
    await unit.session.flush()


async def find_credentials(database: Database, thumbprints: Collection[str]) -> dict[str, Credential]:
    """Return the credentials of certificates, by thumbprint. Unknown ones and those of removed proxies are left out."""
    return {
        row["thumbprint"]: Credential(
            row["id"],
            Role(row["role"]),
            row["public_key"],
            row["expires_at"],
            ExitState(row["state"]) if row["state"] else None,
        )
        for row in await database.fetch(_CREDENTIALS, [*thumbprints])
    }


async def was_removed(session: AsyncSession, proxy_id: UUID) -> bool:
    """Return whether a proxy was removed. One that the database does not know may also be newer than a restored backup."""
    return await session.get(RemovedProxyRow, proxy_id) is not None


async def forget_removed(session: AsyncSession, now: datetime) -> None:
    """Forget removed proxies whose certificates have all expired."""
    await session.execute(delete(RemovedProxyRow).where(col(RemovedProxyRow.at) < now - LEAF_LIFETIME))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
