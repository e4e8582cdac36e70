"""Renewal of issued certificates of listeners, and warnings of those that expire soon."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import structlog

from model.certificate_rules import BadServerNames, is_near_expiry
from model.database import Database
from model.repositories import declared, server_certificates
from model.repositories.server_certificates import CertificateTimes
from model.tables import ServerCertificateRow
from model.unit_of_work import write

RENEW_AFTER: Final = 2 / 3
"""The part of its lifetime after which an issued certificate is renewed."""
log = structlog.get_logger()


def is_due(times: CertificateTimes, now: datetime) -> bool:
    """Return whether an issued certificate is to be renewed now."""
    if not times.issued or times.valid_from is None:
        return False
    return now >= times.valid_from + (times.expires_at - times.valid_from) * RENEW_AFTER


async def look_after_certificates(database: Database, now: datetime) -> None:
    """Renew what is due, and mark what expires soon, which is an event of the certificate. Raises DatabaseUnreachable."""
    async with database.session() as session:
        stored = await server_certificates.times(session)
    for each in stored:
        soon = is_near_expiry(each.valid_from, each.expires_at, now)
        if is_due(each, now):
            await _renew(database, each, now)
        elif soon != each.expires_soon:
            await _mark(database, each, soon=soon)


async def _renew(database: Database, times: CertificateTimes, now: datetime) -> None:
    async with write(database) as unit:
        row = await declared.lock(unit.session, ServerCertificateRow, times.id)
        if row is None or not row.issued_for or row.expires_at != times.expires_at:
            return
        pair = await server_certificates.issue(unit.session, row.fleet_id, row.issued_for, now)
        try:
            await server_certificates.adopt(unit, row, pair, now)
        except BadServerNames as error:
            log.warning("certificate.not_renewed", certificate=times.name, reason=error.message)
            return
    log.info("certificate.renewed", certificate=times.name, expires_at=pair.expires_at.isoformat())


async def _mark(database: Database, times: CertificateTimes, *, soon: bool) -> None:
    async with write(database) as unit:
        row = await declared.lock(unit.session, ServerCertificateRow, times.id)
        if row is not None and row.expires_at == times.expires_at:
            await declared.save_changes(unit, row, {"expires_soon": soon})
    if soon:
        log.warning("certificate.expires_soon", certificate=times.name, expires_at=times.expires_at.isoformat())
