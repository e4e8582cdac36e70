"""The leased worker that takes up certificates from the folders of ACME clients. The clock is injected.

Only replicas with EXITPLANE_CERTIFICATE_FOLDER compete for its lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog

from keeper.lease import CERTIFICATE_LEASE_ID, LeaseCheck, hold_lease
from model.certificate_folder import CertificateFolder, UnusableFiles
from model.certificate_rules import BadServerCertificate, BadServerNames, CheckedPair
from model.database import Database
from model.repositories import declared, server_certificates
from model.repositories.server_certificates import WatchedCertificate
from model.tables import ServerCertificateRow
from model.unit_of_work import write

INTERVAL_S: Final = 2.0
_TELL_AT: Final = 2
"""The look at which a pair that cannot be used is told: the first one may have found it half written."""
log = structlog.get_logger()


async def run_certificate_folders(
    database: Database, root: Path, clock: Callable[[], datetime], *, interval_s: float = INTERVAL_S
) -> None:
    """Take up certificates whenever this replica holds the lease, until cancelled."""

    async def work(check_lease: LeaseCheck) -> None:
        watcher = FolderWatcher(database, root, clock)
        while True:
            await check_lease()
            await watcher.look()
            await asyncio.sleep(interval_s)

    await hold_lease(database, work, CERTIFICATE_LEASE_ID)


class FolderWatcher:
    """The work of one holder of the lease, and its memory between two looks."""

    def __init__(self, database: Database, root: Path, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._root = root
        self._clock = clock
        self._taken: dict[UUID, object] = {}
        """The versions of the files in use, by certificate. Unusable files are read again at each look."""
        self._failures: dict[UUID, int] = {}

    async def look(self) -> None:
        """Take up each pair that changed and can be used; otherwise keep the last one, and store why."""
        async with self._database.session() as session:
            watched = await server_certificates.watched(session)
        known = {each.id for each in watched}
        self._taken = {key: value for key, value in self._taken.items() if key in known}
        self._failures = {key: value for key, value in self._failures.items() if key in known}
        for each in watched:
            try:
                await self._look_at(each)
            except (BadServerCertificate, BadServerNames, UnusableFiles) as error:
                await self._fail(each, str(error))

    async def _look_at(self, watched: WatchedCertificate) -> None:
        folder = CertificateFolder(self._root, watched.fleet, watched.folder)
        version = (watched.folder, await asyncio.to_thread(folder.version))
        if self._taken.get(watched.id) == version:
            return
        self._taken.pop(watched.id, None)
        await self._adopt(watched, await asyncio.to_thread(folder.read, self._clock()))
        self._failures.pop(watched.id, None)
        self._taken[watched.id] = version

    async def _adopt(self, watched: WatchedCertificate, pair: CheckedPair) -> None:
        async with write(self._database) as unit:
            row = await declared.lock(unit.session, ServerCertificateRow, watched.id)
            if row is None or row.folder != watched.folder:
                return
            is_new = row.chain != pair.chain
            await server_certificates.adopt(unit, row, pair, self._clock())
        if is_new:
            log.info("certificate.renewed", certificate=watched.name, expires_at=pair.expires_at.isoformat())

    async def _fail(self, watched: WatchedCertificate, reason: str) -> None:
        failures = self._failures[watched.id] = self._failures.get(watched.id, 0) + 1
        if failures < _TELL_AT or reason == watched.folder_error:
            return
        log.warning("certificate.unusable", certificate=watched.name, reason=reason)
        async with write(self._database) as unit:
            row = await declared.lock(unit.session, ServerCertificateRow, watched.id)
            if row is not None and row.folder == watched.folder:
                await declared.save_changes(unit, row, {"folder_error": reason})
