"""Revisions: how a write becomes one, and how every replica learns of it.

PostgreSQL's revision is the truth; NOTIFY is a hint (docs/architecture.md#notify-is-a-hint). The revision row is locked by
the writing transaction as its last statement, so revisions commit in order and a reader that sees revision n sees all that n
changed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NoReturn
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.audit_log import Actor, AuditEntry, append
from model.database import UNREACHABLE, Database
from model.errors import ExitplaneError
from model.tables import ChangeRow, RevisionRow
from model.world import Key, Kind, ResourceKey

CHANNEL = "exitplane_revision"
HEARTBEAT_CHANNEL = "exitplane_heartbeat"
"""A heartbeat that should change an exit's state was stored; a hint to the keeper."""
QUESTION_CHANNEL = "exitplane_question"
"""Somebody asked what a proxy holds; a hint to the replicas of the xDS server."""
CONTAINER_CHANNEL = "exitplane_container"
"""Somebody wishes something of a container; a hint to the keeper that has an engine."""
_PAUSE_S = 0.1

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TouchedRow:
    """What befell a thing: `created`, `changed` or `deleted`; None for rollout state, which is no event.

    `detail` is what events and the audit say of it: JSON values, no secret, no data of people.
    """

    action: str | None = None
    fleet_id: UUID | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def then(self, later: TouchedRow) -> TouchedRow:
        """Both in one: what is changed after it was created in the same unit was created."""
        action = self.action if self.action == "created" and later.action == "changed" else later.action
        return TouchedRow(action or self.action, later.fleet_id or self.fleet_id, {**self.detail, **later.detail})


@dataclass(slots=True)
class UnitOfWork:
    """One transaction that becomes one revision. Repositories write through it and say what they touched."""

    session: AsyncSession
    traceparent: str | None = None
    actor: Actor | None = None
    """On whose behalf; what nobody asked for (None) is not in the audit."""
    revision: int | None = None
    """The revision that the transaction became; None until it ended, or if it touched nothing."""
    touched: dict[tuple[Kind, str], TouchedRow] = field(default_factory=dict)
    _entries: list[AuditEntry] = field(default_factory=list)
    _sealed: bool = False
    _in_batch: bool = False

    def touch(
        self,
        kind: Kind,
        key: Key,
        action: str | None = None,
        *,
        fleet_id: UUID | None = None,
        detail: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Say that the thing under `key` was added, changed or removed."""
        what, new = (kind, encode_key(key)), TouchedRow(action, fleet_id, detail)
        before = self.touched.get(what)
        self.touched[what] = before.then(new) if before else new

    async def flush(self) -> None:
        """Send the rows that were added, changed or deleted to PostgreSQL. Within `batch` they wait for its end.

        Raises sqlalchemy.exc.IntegrityError for a row that violates a constraint.
        """
        if not self._in_batch:
            await self.session.flush()

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[None]:
        """Send all rows that the block saves or removes together, in few statements, when the block ends.

        No row of the block may refer to another one. Raises sqlalchemy.exc.IntegrityError at the end of the block, for
        whichever row violates a constraint.
        """
        self._in_batch = True
        try:
            with self.session.no_autoflush:
                yield
        finally:
            self._in_batch = False
        await self.flush()

    def audit(self, entry: AuditEntry) -> None:
        """Say what was done beside what was touched."""
        self._entries.append(entry)

    async def seal(self) -> None:
        """Take the next revision, leave the change-log rows and the audit's, and notify; all in the unit's transaction.

        Done once, at the end or before: after it nothing may be touched any more.
        """
        if self._sealed:
            return
        self._sealed = True
        if self.touched:
            await self._become_revision()
        if self.actor is not None:
            events = [
                AuditEntry(touch.action, kind, key, touch.fleet_id, touch.detail)
                for (kind, key), touch in self.touched.items()
                if touch.action
            ]
            await append(self.session, self.actor, [*self._entries, *events])

    async def _become_revision(self) -> None:
        await self.session.flush()
        bump = update(RevisionRow).values(value=col(RevisionRow.value) + 1).returning(col(RevisionRow.value))
        self.revision = (await self.session.execute(bump)).scalar_one()
        now = datetime.now(UTC)
        self.session.add_all(
            ChangeRow(
                revision=self.revision,
                kind=kind,
                key=key,
                at=now,
                traceparent=self.traceparent,
                action=touch.action,
                fleet_id=touch.fleet_id,
                detail=dict(touch.detail) if touch.action else None,
            )
            for (kind, key), touch in self.touched.items()
        )
        await self.session.flush()
        notify = text("SELECT pg_notify(:channel, :revision)")
        await self.session.execute(notify, {"channel": CHANNEL, "revision": str(self.revision)})


async def notify(session: AsyncSession, channel: str) -> None:
    """Wake whoever follows a channel, when the session's transaction is committed."""
    await session.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel})


@asynccontextmanager
async def write(
    database: Database, *, traceparent: str | None = None, actor: Actor | None = None
) -> AsyncIterator[UnitOfWork]:
    """A unit that commits, as one revision, when the block ends well, and leaves nothing behind otherwise."""
    async with database.session() as session:
        unit = UnitOfWork(session, traceparent, actor)
        yield unit
        await unit.seal()


def encode_key(key: Key) -> str:
    """A World's key as the change log holds it: a UUID, or JSON for resources."""
    match key:
        case UUID():
            return str(key)
        case ResourceKey():
            return json.dumps([key.group, key.type_url, key.name])
        case (resource, version):
            return json.dumps([resource.group, resource.type_url, resource.name, version])


def decode_key(kind: Kind, raw: str) -> Key:
    """The inverse of `encode_key`."""
    if kind not in (Kind.ACCEPTED, Kind.REJECTION):
        return UUID(raw)
    group, type_url, name, *version = json.loads(raw)
    resource = ResourceKey(group, type_url, name)
    return (resource, version[0]) if version else resource


class ChangeFeed:
    """Wakes whoever follows the revisions: on NOTIFY, on every (re)connection, and at least every `poll_s`.

    It never says what changed: the follower reads that from the change log. A LISTEN connection that is closed is made
    anew, with backoff while that fails; one that fell silent is noticed by a query on it every `poll_s`.
    """

    def __init__(self, database: Database, *channels: str, poll_s: float = 2.0) -> None:
        self._database = database
        self._channels = channels or (CHANNEL,)
        self._poll_s = poll_s
        self._hint = asyncio.Event()
        self.connected = False

    async def run(self) -> None:
        """Keep a LISTEN connection alive until cancelled."""
        pause_s = _PAUSE_S
        while True:
            try:
                await self._listen()
            except (ExitplaneError, asyncpg.PostgresError, asyncpg.InternalClientError, *UNREACHABLE) as error:
                # the third: asyncpg's word for a connection that the server has ended, before the end arrives
                if self.connected:
                    log.warning("changes.connection_lost", error=str(error))
                    pause_s = _PAUSE_S
                self.connected = False
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 2.0)

    async def _listen(self) -> NoReturn:
        connection = await self._database.connect()
        closed = asyncio.Event()
        connection.add_termination_listener(lambda _: closed.set())
        try:
            notified: Callable[..., None] = lambda *_: self._hint.set()  # noqa: E731 - asyncpg passes four arguments
            for channel in self._channels:
                await connection.add_listener(channel, notified)
            self.connected = True
            self._hint.set()
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(closed.wait(), self._poll_s)
                await connection.fetchval("SELECT 1", timeout=self._poll_s)
        finally:
            with suppress(Exception):
                await _close(connection)

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Return at the next hint, or after `timeout_s` (None: `poll_s`) without one; says whether there was one."""
        try:
            async with asyncio.timeout(self._poll_s if timeout_s is None else timeout_s):
                await self._hint.wait()
        except TimeoutError:
            return False
        self._hint.clear()
        return True


async def _close(connection: asyncpg.Connection[Any]) -> None:
    if not connection.is_closed():
        connection.terminate()
