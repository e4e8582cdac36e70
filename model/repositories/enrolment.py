"""The certificates of proxies."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from cryptography import x509
from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from model.authority import LEAF_LIFETIME, CertificateAuthority
from model.database import Database
from model.entities import Role
from model.exit_states import ExitState
from model.repositories import declared, heartbeats
from model.request_signature import public_key_of, thumbprint_of
from model.tables import CertificateRow, ProxyRow, RemovedProxyRow
from model.unit_of_work import UnitOfWork

_KEPT_EXPIRED: Final = timedelta(days=7)
_CREDENTIALS: Final = """
SELECT certificate.thumbprint, certificate.public_key, certificate.expires_at, proxy.id, proxy.role, exit.state,
    jsonb_exists(proxy.replaced_certificates, certificate.thumbprint) AS replaced
FROM certificate JOIN proxy ON proxy.id = certificate.proxy_id LEFT JOIN exit ON exit.id = proxy.id
WHERE certificate.thumbprint = ANY($1)
"""


@dataclass(frozen=True, slots=True)
class Credential:
    """The proxy that a certificate identifies. `public_key` is PEM; `state` is the exit's, None for a gateway.

    `replaced` tells that another key took over the proxy's name, which ended the certificate.
    """

    proxy_id: UUID
    role: Role
    public_key: str
    expires_at: datetime
    state: ExitState | None
    thumbprint: str
    replaced: bool = False


async def record_certificate(
    unit: UnitOfWork,
    proxy_id: UUID,
    certificate_pem: str,
    authority: CertificateAuthority,
    now: datetime,
    signed_at: datetime | None = None,
) -> None:
    """Store a certificate's public key, with which request signatures are verified. `signed_at` is that of a renewal."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    unit.session.add(
        CertificateRow(
            thumbprint=thumbprint_of(certificate_pem),
            proxy_id=proxy_id,
            public_key=public_key_of(certificate_pem),
            issued_at=now,
            expires_at=certificate.not_valid_after_utc,
            signed_at=signed_at,
            issuer=authority.issuer_id,
            serial=f"{certificate.serial_number:x}",
            authority=authority.version,
        )
    )
    await unit.session.flush()


async def newest_renewal(session: AsyncSession, proxy_id: UUID) -> datetime | None:
    """Return the time of the newest signature with which a proxy renewed its certificate; None if it never did."""
    newest = select(func.max(col(CertificateRow.signed_at))).where(col(CertificateRow.proxy_id) == proxy_id)
    return (await session.execute(newest)).scalar_one()


async def replaced_keys_of(session: AsyncSession, proxy: ProxyRow) -> Sequence[str]:
    """Return the keys (PEM) whose certificates a takeover of the proxy's name has ended."""
    ended = select(col(CertificateRow.public_key)).where(
        col(CertificateRow.proxy_id) == proxy.id,
        col(CertificateRow.thumbprint).in_(proxy.replaced_certificates),
    )
    return (await session.execute(ended.distinct())).scalars().all()


async def forget_expired(session: AsyncSession, now: datetime) -> None:
    """Forget certificates that expired a week ago, but the newest of each key: that one says whose name it is."""
    newer = aliased(CertificateRow)
    is_newest = ~exists().where(
        col(newer.proxy_id) == col(CertificateRow.proxy_id),
        col(newer.public_key) == col(CertificateRow.public_key),
        col(newer.issued_at) > col(CertificateRow.issued_at),
    )
    expired = col(CertificateRow.expires_at) < now - _KEPT_EXPIRED
    await session.execute(delete(CertificateRow).where(expired, ~is_newest))


async def public_keys_of(session: AsyncSession, proxy: ProxyRow) -> Sequence[str]:
    """Return the keys (PEM) that own a proxy's name: those of all its certificates that no takeover has ended, expired or not."""
    owned = select(col(CertificateRow.public_key)).where(
        col(CertificateRow.proxy_id) == proxy.id,
        col(CertificateRow.thumbprint).not_in(proxy.replaced_certificates),
    )
    return (await session.execute(owned.distinct())).scalars().all()


async def replace_certificates(unit: UnitOfWork, proxy: ProxyRow, now: datetime) -> None:
    """End all certificates of a locked proxy, and drop its last heartbeat, because another key takes over its name."""
    issued = select(col(CertificateRow.thumbprint)).where(col(CertificateRow.proxy_id) == proxy.id)
    replaced = sorted((await unit.session.execute(issued)).scalars())
    await declared.save_changes(unit, proxy, {"replaced_certificates": replaced})
    ended = update(CertificateRow).where(
        col(CertificateRow.proxy_id) == proxy.id, col(CertificateRow.revoked_at).is_(None)
    )
    await unit.session.execute(ended.values(revoked_at=now))
    await heartbeats.forget(unit.session, proxy.id)


async def find_credentials(database: Database, thumbprints: Collection[str]) -> dict[str, Credential]:
    """Return the credentials of certificates, by thumbprint. Unknown ones and those of removed proxies are left out."""
    return {
        row["thumbprint"]: Credential(
            row["id"],
            Role(row["role"]),
            row["public_key"],
            row["expires_at"],
            ExitState(row["state"]) if row["state"] else None,
            row["thumbprint"],
            row["replaced"],
        )
        for row in await database.fetch(_CREDENTIALS, [*thumbprints])
    }


async def was_removed(session: AsyncSession, proxy_id: UUID) -> bool:
    """Return whether a proxy was removed. One that the database does not know may also be newer than a restored backup."""
    return await session.get(RemovedProxyRow, proxy_id) is not None


async def forget_removed(session: AsyncSession, now: datetime) -> None:
    """Forget removed proxies whose certificates have all expired."""
    await session.execute(delete(RemovedProxyRow).where(col(RemovedProxyRow.at) < now - LEAF_LIFETIME))
