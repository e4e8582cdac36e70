"""A cache of certificates' credentials, so that a heartbeat needs no statement in the database."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from uuid import UUID

import structlog

from model.change_feed import ChangeFeed
from model.database import Database, DatabaseUnreachable
from model.repositories import enrolment, worlds
from model.repositories.enrolment import Credential
from model.world import Kind

log = structlog.get_logger()

CERTIFICATES_MAX = 100_000
_KINDS = (Kind.EXIT, Kind.PROXY)


class CertificateCache:
    """A bounded cache of credentials that follows the change log.

    The entries of a proxy are dropped when a revision touches it or its exit, for example removes or disables it. While
    PostgreSQL is away nobody can change anything, so the entries stay valid and known proxies still send heartbeats.
    `run` is a task for a TaskGroup.
    """

    def __init__(self, database: Database, *, certificates_max: int = CERTIFICATES_MAX) -> None:
        self._database = database
        self._certificates_max = certificates_max
        self._feed = ChangeFeed(database)
        self._revision: int | None = None
        self._credentials: OrderedDict[str, Credential] = OrderedDict()
        self._thumbprints: dict[UUID, set[str]] = {}
        self._drops = 0
        """The number of drops. What was read before the last one may be outdated, and is not cached."""
        self._queued: dict[str, asyncio.Future[Credential | None]] = {}
        """Lookups that wait for the next statement, which answers all of them together."""
        self._lookup_task: asyncio.Task[None] | None = None

    async def find(self, thumbprint: str) -> Credential | None:
        """Find the credential of a certificate; None if it is unknown. Raises DatabaseUnreachable if it is not cached."""
        credential = self._credentials.get(thumbprint)
        if credential is not None:
            self._credentials.move_to_end(thumbprint)
            return credential
        answer = self._queued.setdefault(thumbprint, asyncio.get_running_loop().create_future())
        if self._lookup_task is None:
            self._lookup_task = asyncio.create_task(self._look_up_queued())
        return await asyncio.shield(answer)

    async def _look_up_queued(self) -> None:
        try:
            while self._queued:
                queued, self._queued = self._queued, {}
                await self._look_up(queued)
        finally:
            self._lookup_task = None

    async def _look_up(self, queued: Mapping[str, asyncio.Future[Credential | None]]) -> None:
        drops = self._drops
        try:
            found = await enrolment.find_credentials(self._database, queued.keys())
        except Exception as error:  # noqa: BLE001 - each caller of `find` raises it
            for answer in queued.values():
                answer.set_exception(error)
                answer.exception()  # marks it as retrieved: the caller may be cancelled
            return
        for thumbprint, answer in queued.items():
            credential = found.get(thumbprint)
            if credential is not None and drops == self._drops:
                self._add(thumbprint, credential)
            answer.set_result(credential)

    def forget(self, proxy_id: UUID) -> None:
        """Drop the entries of a proxy."""
        self._drops += 1
        for thumbprint in self._thumbprints.pop(proxy_id, ()):
            self._credentials.pop(thumbprint, None)

    async def run(self) -> None:
        """Follow the change log until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed.run())
            while True:
                await self._feed.wait()
                try:
                    await self.catch_up()
                except DatabaseUnreachable as error:
                    log.debug("certificate_cache.update_failed", reason=error.message)
                except Exception:
                    # the next notification or poll tries again
                    log.exception("certificate_cache.update_failed")

    async def catch_up(self) -> None:
        """Drop the entries of what changed since the last call. Raises DatabaseUnreachable."""
        revision, touched = await worlds.touched_since(self._database, self._revision, _KINDS)
        if touched is None:
            self._drops += 1
            self._credentials.clear()
            self._thumbprints.clear()
        else:
            for proxy_id in touched:
                self.forget(proxy_id)
        self._revision = revision

    def _add(self, thumbprint: str, credential: Credential) -> None:
        self._credentials[thumbprint] = credential
        self._thumbprints.setdefault(credential.proxy_id, set()).add(thumbprint)
        if len(self._credentials) > self._certificates_max:
            oldest, dropped = self._credentials.popitem(last=False)
            siblings = self._thumbprints[dropped.proxy_id]
            siblings.discard(oldest)
            if not siblings:
                del self._thumbprints[dropped.proxy_id]
