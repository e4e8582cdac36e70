"""The certificates of listeners: which listeners use them, the authorities that issue them, and those that need attention."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.authority import CertificateAuthority, create_fleet_authority, issue_listener
from model.certificate_rules import (
    BadServerNames,
    CheckedPair,
    check_pair,
    check_server_names,
    columns_of,
    covers,
    is_near_expiry,
)
from model.repositories import declared
from model.tables import FleetAuthorityRow, FleetRow, ListenerRow, ServerCertificateRow
from model.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True)
class CertificateTimes:
    """The validity of a stored certificate. `issued` tells that the fleet's authority issues it."""

    id: UUID
    name: str
    valid_from: datetime | None
    expires_at: datetime
    expires_soon: bool
    issued: bool


@dataclass(frozen=True, slots=True)
class WatchedCertificate:
    """A certificate whose files an ACME client writes."""

    id: UUID
    name: str
    fleet: str
    folder: str
    folder_error: str


async def times(session: AsyncSession) -> Sequence[CertificateTimes]:
    """Return the validity of all certificates, without their keys."""
    query = select(
        col(ServerCertificateRow.id),
        col(ServerCertificateRow.name),
        col(ServerCertificateRow.valid_from),
        col(ServerCertificateRow.expires_at),
        col(ServerCertificateRow.expires_soon),
        col(ServerCertificateRow.issued_for),
    )
    return [
        CertificateTimes(row.id, row.name, row.valid_from, row.expires_at, row.expires_soon, bool(row.issued_for))
        for row in (await session.execute(query)).all()
    ]


async def watched(session: AsyncSession) -> Sequence[WatchedCertificate]:
    """Return the certificates that are read from folders."""
    query = select(
        col(ServerCertificateRow.id),
        col(ServerCertificateRow.name),
        col(FleetRow.name),
        col(ServerCertificateRow.folder),
        col(ServerCertificateRow.folder_error),
    ).join(FleetRow, col(FleetRow.id) == col(ServerCertificateRow.fleet_id))
    rows = (await session.execute(query.where(col(ServerCertificateRow.folder).is_not(None)))).all()
    return [WatchedCertificate(*row) for row in rows]  # type: ignore[arg-type]  # none of the folders is None


async def issue(session: AsyncSession, fleet_id: UUID, hosts: Sequence[str], now: datetime) -> CheckedPair:
    """Issue a certificate by the fleet's authority, which the first one creates."""
    row = await session.get(FleetAuthorityRow, fleet_id)
    if row is None:
        created = create_fleet_authority(fleet_id, now)
        values = {"fleet_id": fleet_id, "certificate": created.certificate_pem, "key": created.key_pem}
        await session.execute(insert(FleetAuthorityRow).values(values).on_conflict_do_nothing())
        row = await session.get_one(FleetAuthorityRow, fleet_id)
    pair = issue_listener(CertificateAuthority(row.certificate, row.key), now, hosts)
    return check_pair(pair.certificate_pem, pair.key_pem, now)


async def adopt(unit: UnitOfWork, row: ServerCertificateRow, pair: CheckedPair, now: datetime) -> None:
    """Give a stored certificate a new pair. Raises BadServerNames when a listener would lose a server name."""
    await check_users(unit.session, row, pair.server_names)
    soon = is_near_expiry(pair.valid_from, pair.expires_at, now)
    await declared.save_changes(unit, row, {**columns_of(pair), "folder_error": "", "expires_soon": soon})


async def lock_shared(session: AsyncSession, ids: Collection[UUID]) -> Mapping[UUID, ServerCertificateRow]:
    """Read certificates as they are now, by id, and keep others from changing or removing them until the transaction ends."""
    query = (
        select(ServerCertificateRow).where(col(ServerCertificateRow.id).in_(ids)).order_by(col(ServerCertificateRow.id))
    )
    locked = query.with_for_update(read=True).execution_options(populate_existing=True)
    return {row.id: row for row in (await session.execute(locked)).scalars()}


async def users_of(session: AsyncSession, certificate_id: UUID) -> Sequence[ListenerRow]:
    """Return the listeners that present a certificate."""
    additional: Any = col(ListenerRow.additional_certificates)
    query = select(ListenerRow).where(
        or_(col(ListenerRow.certificate_id) == certificate_id, additional.contains([str(certificate_id)]))
    )
    return (await session.execute(query.order_by(col(ListenerRow.name)))).scalars().all()


async def check_users(session: AsyncSession, row: ServerCertificateRow, server_names: Iterable[str]) -> None:
    """Check that with new names of a certificate its listeners' names stay distinct, and none that they use is lost.

    Names that no certificate had before, as in what release 0.1.0 stored, do not count. Raises BadServerNames.
    """
    for listener in await users_of(session, row.id):
        ids = {each for each in ids_of(listener) if each != row.id}
        others = select(col(ServerCertificateRow.name), col(ServerCertificateRow.server_names)).where(
            col(ServerCertificateRow.id).in_(ids)
        )
        found = [(name, names) for name, names in (await session.execute(others)).all()]
        before = {*row.server_names, *(name for _, names in found for name in names)}
        used = [name for name in listener.countries_by_server_name if covers(before, name)]
        try:
            check_server_names(used, [*found, (row.name, server_names)])
        except BadServerNames as error:
            raise BadServerNames(f"listener {listener.name}: {error.message}", hint=error.hint) from error


def ids_of(listener: ListenerRow) -> list[UUID]:
    """Return the ids of a listener's certificates, the default one first."""
    default = [listener.certificate_id] if listener.certificate_id else []
    return [*default, *map(UUID, listener.additional_certificates)]
