"""The authority of a process, which follows rotations, and renews its intermediate in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime

import structlog

from model.authority import CertificateAuthority, KeyPair, issue_intermediate
from model.change_feed import ChangeFeed
from model.database import Database, DatabaseUnreachable
from model.repositories import authorities, worlds
from model.telemetry import metrics
from model.telemetry.metrics import Sample
from model.unit_of_work import write
from model.world import Kind

log = structlog.get_logger()


class CurrentAuthority:
    """The authority that issues now. `run` is a task for a TaskGroup."""

    def __init__(self, value: CertificateAuthority) -> None:
        self.value = value
        self._revision: int | None = None

    async def run(self, database: Database, clock: Callable[[], datetime]) -> None:
        """Follow the change log until cancelled."""
        feed = ChangeFeed(database)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(feed.run())
            while True:
                await feed.wait()
                try:
                    await self.catch_up(database)
                    await self.renew_intermediate(database, clock())
                except DatabaseUnreachable as error:
                    log.debug("authority.update_failed", reason=error.message)
                except Exception:
                    # the next notification or poll tries again
                    log.exception("authority.update_failed")

    def samples(self) -> Iterator[Sample]:
        """Read when the issuer's certificate or its root expires, whichever is first."""
        expires_at = min(each.not_valid_after_utc for each in (self.value.issuer, self.value.roots[0]))
        yield Sample(metrics.CERTIFICATE_EXPIRY, expires_at.timestamp(), ("authority",))

    async def catch_up(self, database: Database) -> None:
        """Load the authority if it changed since the last call. Raises DatabaseUnreachable."""
        revision, touched = await worlds.touched_since(database, self._revision, (Kind.AUTHORITY,))
        if touched is None or touched:
            async with database.session() as session:
                loaded = await authorities.load(session)
            if loaded is not None and loaded != self.value:
                self.value = loaded
                log.info("authority.changed", version=loaded.version)
        self._revision = revision

    async def renew_intermediate(self, database: Database, now: datetime) -> None:
        """Replace the intermediate after two thirds of its lifetime, if the root's key is at hand. Raises DatabaseUnreachable."""
        if not _is_due(self.value, now):
            return
        async with write(database) as unit:
            known = await authorities.lock(unit.session)
            if known is not None and _is_due(known, now):
                await authorities.activate(unit, renewed(known, now), root_of(known))
        await self.catch_up(database)


def root_of(authority: CertificateAuthority) -> str:
    """Return the root (PEM) of the issuer."""
    end = "-----END CERTIFICATE-----\n"
    return authority.certificate_pem.partition(end)[0] + end


def renewed(authority: CertificateAuthority, now: datetime) -> CertificateAuthority:
    """Issue a new intermediate below the root, whose key is at hand."""
    assert authority.root_key_pem is not None
    root = root_of(authority)
    return issue_intermediate(KeyPair(root, authority.root_key_pem), (root,), now)


def _is_due(authority: CertificateAuthority, now: datetime) -> bool:
    if authority.root_key_pem is None:
        return False
    start, end = authority.issuer.not_valid_before_utc, authority.issuer.not_valid_after_utc
    return now > start + (end - start) * 2 / 3
