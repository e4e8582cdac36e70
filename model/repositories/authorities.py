"""The stored authority, the one that issues next, and the roots that are trusted."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, select, text, union
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.authority import CertificateAuthority, RevokedCertificate
from model.tables import AuthorityRow, CertificateRow, RevokedCertificateRow, TrustedAuthorityRow
from model.unit_of_work import UnitOfWork
from model.world import Kind

CURRENT: Final = 1
NEXT: Final = 2
"""The row of the authority that issues once all proxies trust its root, or of a key whose certificate is being signed."""
_INSTANCE_BYTES: Final = 8
_OUTDATED: Final = text("""
SELECT proxy.role || ' ' || proxy.name FROM proxy JOIN LATERAL (
    SELECT authority FROM certificate WHERE proxy_id = proxy.id ORDER BY issued_at DESC LIMIT 1) AS newest ON true
WHERE newest.authority IS DISTINCT FROM :version ORDER BY 1
""")


async def ensure(session: AsyncSession, create: Callable[[], CertificateAuthority]) -> CertificateAuthority:
    """Return the one authority; the first caller creates it, before any replica loads the World."""
    known = await load(session)
    if known is not None:
        return known
    created = create()
    row = {"certificate": created.certificate_pem, "instance": secrets.token_hex(_INSTANCE_BYTES), **_keys_of(created)}
    statement = insert(AuthorityRow).values(id=CURRENT, **row).on_conflict_do_nothing().returning(col(AuthorityRow.id))
    if (await session.execute(statement)).scalar_one_or_none() is not None:
        session.add(TrustedAuthorityRow(certificate=created.certificate_pem))
        await session.flush()
    stored = await load(session)
    assert stored is not None
    return stored


def _keys_of(authority: CertificateAuthority) -> dict[str, Any]:
    return {"key": authority.key_pem, "chain": authority.chain_pem, "root_key": authority.root_key_pem}


async def load(session: AsyncSession) -> CertificateAuthority | None:
    """Load the authority that issues; None before the first start."""
    row = await session.get(AuthorityRow, CURRENT, populate_existing=True)
    if row is None:
        return None
    others = [each for each in await trusted_roots(session) if each != row.certificate]
    return CertificateAuthority(row.certificate + "".join(others), row.key, row.chain, row.root_key)


async def load_next(session: AsyncSession) -> CertificateAuthority | None:
    """Load the authority that issues next; without certificates if these are still to be signed."""
    row = await session.get(AuthorityRow, NEXT, populate_existing=True)
    return None if row is None else CertificateAuthority(row.certificate, row.key, row.chain, row.root_key)


async def trusted_roots(session: AsyncSession) -> Sequence[str]:
    """Return the trusted roots (PEM), for which no key is needed."""
    query = select(col(TrustedAuthorityRow.certificate)).order_by(col(TrustedAuthorityRow.id))
    return (await session.execute(query)).scalars().all()


async def instance_name(session: AsyncSession) -> str:
    """Return the name by which containers are known to be this control plane's."""
    return (
        await session.execute(select(col(AuthorityRow.instance)).where(col(AuthorityRow.id) == CURRENT))
    ).scalar_one()


async def lock(session: AsyncSession) -> CertificateAuthority | None:
    """Lock the authority until the transaction ends, and load it."""
    await session.get(AuthorityRow, CURRENT, with_for_update=True, populate_existing=True)
    return await load(session)


async def propose(unit: UnitOfWork, authority: CertificateAuthority) -> None:
    """Store the authority that issues next, and trust its root. It may have no certificates yet."""
    await unit.session.merge(AuthorityRow(id=NEXT, certificate=authority.certificate_pem, **_keys_of(authority)))
    if authority.certificate_pem:
        await _trust(unit, authority.certificate_pem)
    await unit.session.flush()


async def activate(unit: UnitOfWork, authority: CertificateAuthority, root: str) -> None:
    """Issue with this authority, whose root is `root` (PEM), from now on. The former root stays trusted."""
    row = await unit.session.get_one(AuthorityRow, CURRENT)
    row.certificate = root
    row.key, row.chain, row.root_key = authority.key_pem, authority.chain_pem, authority.root_key_pem
    await unit.session.execute(delete(AuthorityRow).where(col(AuthorityRow.id) == NEXT))
    await _trust(unit, root)
    await unit.session.flush()


async def retire_roots(unit: UnitOfWork) -> int:
    """Trust the issuer's root alone, and return the number of the others."""
    current = await unit.session.get_one(AuthorityRow, CURRENT)
    others = select(TrustedAuthorityRow).where(col(TrustedAuthorityRow.certificate) != current.certificate)
    rows = (await unit.session.execute(others)).scalars().all()
    for row in rows:
        await unit.session.delete(row)
        unit.touch(Kind.AUTHORITY, row.id)
    await unit.session.flush()
    return len(rows)


async def _trust(unit: UnitOfWork, root: str) -> None:
    """Trust a root, and make a revision, by which replicas notice that the authority changed."""
    query = select(TrustedAuthorityRow).where(col(TrustedAuthorityRow.certificate) == root)
    row = (await unit.session.execute(query)).scalar_one_or_none()
    if row is None:
        row = TrustedAuthorityRow(certificate=root)
        unit.session.add(row)
    unit.touch(Kind.AUTHORITY, row.id)


async def outdated_proxies(session: AsyncSession, version: str) -> Sequence[str]:
    """Return role and name of each proxy that did not renew its certificate since the authority has this version."""
    return (await session.execute(_OUTDATED, {"version": version})).scalars().all()


async def revoked(session: AsyncSession, issuer_id: str, now: datetime) -> list[RevokedCertificate]:
    """Return the valid certificates of an issuer that a removal or a takeover has ended."""
    ended = select(col(CertificateRow.serial), col(CertificateRow.revoked_at)).where(
        col(CertificateRow.issuer) == issuer_id,
        col(CertificateRow.revoked_at).is_not(None),
        col(CertificateRow.expires_at) > now,
    )
    removed = select(col(RevokedCertificateRow.serial), col(RevokedCertificateRow.at)).where(
        col(RevokedCertificateRow.issuer) == issuer_id, col(RevokedCertificateRow.expires_at) > now
    )
    rows: Sequence[Any] = (await session.execute(union(ended, removed).order_by(text("1")))).all()
    return [RevokedCertificate(serial, at) for serial, at in rows]


async def forget_revoked(session: AsyncSession, now: datetime) -> None:
    """Forget revoked certificates that have expired."""
    await session.execute(delete(RevokedCertificateRow).where(col(RevokedCertificateRow.expires_at) < now))
