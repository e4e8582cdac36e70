"""What certificates are worth, remembered, so that a heartbeat needs no statement in the database."""

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
    """A bounded memory of certificates, which follows the change log.

    What is remembered of a proxy is dropped when a revision touches it or its exit: removed, disabled, declared lost.
    While PostgreSQL is away nothing can be declared, so what is remembered still holds, and proxies that were heard
    before are heard on. `run` is a task for a TaskGroup.
    """

    def __init__(self, database: Database, *, certificates_max: int = CERTIFICATES_MAX) -> None:
        self._database = database
        self._certificates_max = certificates_max
        self._feed = ChangeFeed(database)
        self._revision: int | None = None
        self._known: OrderedDict[str, Credential] = OrderedDict()
        self._thumbprints: dict[UUID, set[str]] = {}
        self._drops = 0
        """How often something was dropped: what was read before that may be outdated and is not remembered."""
        self._asked: dict[str, asyncio.Future[Credential | None]] = {}
        """Those that nobody looks up yet. While one statement is under way, who comes waits for the next, together."""
        self._answering: asyncio.Task[None] | None = None

    async def find(self, thumbprint: str) -> Credential | None:
        """What a certificate is worth; None when it is unknown. Raises DatabaseUnreachable when it is not remembered."""
        credential = self._known.get(thumbprint)
        if credential is not None:
            self._known.move_to_end(thumbprint)
            return credential
        answer = self._asked.setdefault(thumbprint, asyncio.get_running_loop().create_future())
        if self._answering is None:
            self._answering = asyncio.create_task(self._answer())
        return await asyncio.shield(answer)

    async def _answer(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                await self._look_up(asked)
        finally:
            self._answering = None

    async def _look_up(self, asked: Mapping[str, asyncio.Future[Credential | None]]) -> None:
        drops = self._drops
        try:
            found = await enrolment.find_credentials(self._database, asked.keys())
        except Exception as error:  # noqa: BLE001 - it is raised where they were asked for
            for answer in asked.values():
                answer.set_exception(error)
                answer.exception()  # whoever asked may have left
            return
        for thumbprint, answer in asked.items():
            credential = found.get(thumbprint)
            if credential is not None and drops == self._drops:
                self._remember(thumbprint, credential)
            answer.set_result(credential)

    def forget(self, proxy_id: UUID) -> None:
        """Drop what is remembered of a proxy."""
        self._drops += 1
        for thumbprint in self._thumbprints.pop(proxy_id, ()):
            self._known.pop(thumbprint, None)

    async def run(self) -> None:
        """Follow the change log until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed.run())
            while True:
                await self._feed.wait()
                try:
                    await self.catch_up()
                except DatabaseUnreachable as error:
                    log.debug("credentials.not_followed", reason=error.message)
                except Exception:
                    # the next hint, or the next poll, is another chance
                    log.exception("credentials.not_followed")

    async def catch_up(self) -> None:
        """Drop what changed since the last time. Raises DatabaseUnreachable."""
        revision, touched = await worlds.touched_since(self._database, self._revision, _KINDS)
        if touched is None:
            self._drops += 1
            self._known.clear()
            self._thumbprints.clear()
        else:
            for proxy_id in touched:
                self.forget(proxy_id)
        self._revision = revision

    def _remember(self, thumbprint: str, credential: Credential) -> None:
        self._known[thumbprint] = credential
        self._thumbprints.setdefault(credential.proxy_id, set()).add(thumbprint)
        if len(self._known) > self._certificates_max:
            oldest, dropped = self._known.popitem(last=False)
            siblings = self._thumbprints[dropped.proxy_id]
            siblings.discard(oldest)
            if not siblings:
                del self._thumbprints[dropped.proxy_id]
