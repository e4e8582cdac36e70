"""The facts about the database that `exitplane doctor` judges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Final

from cryptography import x509
from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.database import Database
from model.doctor.control_plane import ApiKeyFact, DatabaseFacts, JoinTokenFact, ListenerFact, OperatorFact
from model.doctor.host import ClockFact, ValidityFact
from model.exit_states import ExitState
from model.repositories import rollout, sealed_values
from model.tables import (
    ApiKeyRow,
    AuthorityRow,
    CertificateRow,
    ExitRow,
    FleetRow,
    HeartbeatRow,
    JoinTokenRow,
    ListenerRow,
    OperatorRow,
    PoolRow,
    ProxyRow,
    ReplicaRow,
    ServerCertificateRow,
)

_SHOWN: Final = 20
"""The certificates of proxies that are looked at, those that expire first."""
_OFFERED: Final = (ExitState.HEALTHY, ExitState.DEGRADED)


async def read(database: Database, keys: Sequence[str], now: datetime) -> DatabaseFacts:
    """Read the facts, as of `now` on this host, which has these keys for secrets. Raises DatabaseUnreachable."""
    secrets = await sealed_values.count_by_key(database)
    async with database.snapshot() as session:
        there: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
        return DatabaseFacts(
            now=now,
            clock=ClockFact("the database", (now - there).total_seconds()),
            secrets=secrets,
            keys=keys,
            certificates=[
                *await _read_authority(session),
                *await _read_proxies(session),
                *await _read_server_certificates(session),
            ],
            unverified=await _count_unverified(session),
            listeners=await _read_listeners(session),
            operators=await _read_operators(session),
            api_keys=await _read_api_keys(session, there),
            join_tokens=await _read_join_tokens(session, there),
            replicas=await _count(session, select(func.count()).select_from(ReplicaRow).where(rollout.is_alive())),
        )


def validity(what: str, pem: str, hint: str) -> Iterator[ValidityFact]:
    """Yield the validity of each certificate of a chain in PEM. Raises ValueError."""
    for each in x509.load_pem_x509_certificates(pem.encode()):
        yield ValidityFact(what, each.not_valid_before_utc, each.not_valid_after_utc, hint)


async def _read_authority(session: AsyncSession) -> list[ValidityFact]:
    found = (await session.execute(select(col(AuthorityRow.certificate)))).scalars()
    return [
        fact
        for pem in found
        for fact in validity("the authority", pem, "restore a newer backup, or enrol all proxies anew")
    ]


async def _read_proxies(session: AsyncSession) -> list[ValidityFact]:
    last, first = func.max(col(CertificateRow.expires_at)), func.max(col(CertificateRow.issued_at))
    query = (
        select(col(ProxyRow.name), first, last)
        .join(CertificateRow, col(CertificateRow.proxy_id) == col(ProxyRow.id))
        .group_by(col(ProxyRow.id))
        .order_by(last)
        .limit(_SHOWN)
    )
    hint = "see that its agent runs and reaches the API"
    rows = (await session.execute(query)).all()
    return [ValidityFact(f"the certificate of proxy {name}", begins, expires, hint) for name, begins, expires in rows]


async def _read_server_certificates(session: AsyncSession) -> list[ValidityFact]:
    rows = (await session.execute(select(col(ServerCertificateRow.name), col(ServerCertificateRow.chain)))).all()
    hint = "replace it: PATCH /api/v1/certificates/NAME"
    return [fact for name, chain in rows for fact in validity(f"certificate {name} of listeners", chain, hint)]


async def _count_unverified(session: AsyncSession) -> dict[str, int]:
    """Count the offered exits without an observation, by pools that allow them."""
    believed = and_(
        col(HeartbeatRow.proxy_id) == col(ExitRow.id),
        col(HeartbeatRow.observation).is_(None),
        col(ExitRow.state).in_(_OFFERED),
    )
    query = (
        select(col(FleetRow.name), col(PoolRow.name), func.count(col(HeartbeatRow.proxy_id)))
        .join(FleetRow, col(FleetRow.id) == col(PoolRow.fleet_id))
        .outerjoin(ExitRow, col(ExitRow.pool_id) == col(PoolRow.id))
        .outerjoin(HeartbeatRow, believed)
        .where(col(PoolRow.allow_unverified))
        .group_by(col(FleetRow.name), col(PoolRow.name))
        .order_by(col(FleetRow.name), col(PoolRow.name))
    )
    return {f"{fleet}/{pool}": count for fleet, pool, count in (await session.execute(query)).all()}


async def _read_listeners(session: AsyncSession) -> list[ListenerFact]:
    rows = (await session.execute(select(ListenerRow))).scalars()
    outside = [row for row in rows if not ip_address(row.address).is_loopback]
    return [ListenerFact(row.name or f"{row.address}:{row.port}", row.certificate_id is not None) for row in outside]


async def _read_operators(session: AsyncSession) -> list[OperatorFact]:
    # a second factor counts once a code was accepted, which leaves its step
    has_second_factor = col(OperatorRow.totp_step).is_not(None)
    query = select(
        col(OperatorRow.name), col(OperatorRow.role), col(OperatorRow.password_hash).is_not(None), has_second_factor
    )
    rows = await session.execute(query.where(~col(OperatorRow.disabled)).order_by(col(OperatorRow.name)))
    return [OperatorFact(*row) for row in rows.all()]


async def _read_api_keys(session: AsyncSession, now: datetime) -> list[ApiKeyFact]:
    query = (
        select(col(OperatorRow.name), ApiKeyRow)
        .join(OperatorRow, col(OperatorRow.id) == col(ApiKeyRow.operator_id))
        .where(~col(OperatorRow.disabled), or_(col(ApiKeyRow.expires_at).is_(None), col(ApiKeyRow.expires_at) > now))
        .order_by(col(OperatorRow.name), col(ApiKeyRow.name))
    )
    return [
        ApiKeyFact(name, row.name, row.role, row.expires_at, row.created_at, row.last_used_at)
        for name, row in (await session.execute(query)).all()
    ]


async def _read_join_tokens(session: AsyncSession, now: datetime) -> list[JoinTokenFact]:
    query = (
        select(JoinTokenRow)
        .where(
            col(JoinTokenRow.id).is_not(None),
            col(JoinTokenRow.revoked_at).is_(None),
            col(JoinTokenRow.expires_at) > now,
            or_(col(JoinTokenRow.uses).is_(None), col(JoinTokenRow.used) < col(JoinTokenRow.uses)),
        )
        .order_by(col(JoinTokenRow.name))
    )
    return [JoinTokenFact(row.name, row.uses, row.expires_at) for row in (await session.execute(query)).scalars()]


async def _count(session: AsyncSession, query: Any) -> int:
    return int((await session.execute(query)).scalar_one())
