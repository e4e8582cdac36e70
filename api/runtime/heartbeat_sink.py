"""The sink that writes heartbeats in batches (docs/architecture.md#heartbeats-are-not-configuration)."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import structlog

from model.database import Database, DatabaseUnreachable
from model.errors import ExitplaneError
from model.repositories import heartbeats
from model.repositories.heartbeats import Heartbeat
from model.request_signature import is_newer
from model.telemetry.distribution import LATENCY_S, Distribution

log = structlog.get_logger()

PROXIES_MAX = 100_000
_STOP_TIMEOUT_S = 5.0
_State: TypeAlias = tuple[bool, bool, bool, Mapping[str, Any] | None]


class StaleSignature(ExitplaneError):
    """A heartbeat is not newer than the newest one of its proxy: it was replayed or overtaken, or a clock was set back."""

    code = "stale_signature"

    def __init__(self, newest: datetime) -> None:
        super().__init__(f"the signature is not newer than {newest.isoformat()}", hint="sign it with a later time")
        self.newest = newest


@dataclass(slots=True)
class _Known:
    """The newest known signature of a proxy, and the state in the last heartbeat that came here."""

    signed_at: datetime
    state: _State | None = None


class HeartbeatSink:
    """A collector that writes the newest heartbeat of each proxy in one transaction every `period_s`.

    The transaction also records until when this replica could receive heartbeats, which `reached_at` says; None: never yet. A heartbeat with a change (the tunnel or
    Envoy went up or down, the proxy leaves or is new) is written at once, and wakes the keeper. While PostgreSQL is away,
    the newest heartbeat of each proxy is kept.

    A heartbeat that is signed no later than the newest one is refused if that one came here, and dropped by PostgreSQL
    otherwise. The sink then learns the newest time (docs/decisions/0038-each-signature-is-newer.md).

    `run` is a task for a TaskGroup. Cancel it after the HTTP server has stopped: it then writes what is pending.
    """

    def __init__(
        self,
        database: Database,
        *,
        replica: str,
        clock: Callable[[], datetime],
        period_s: float = 1.0,
        proxies_max: int = PROXIES_MAX,
        reached_at: Callable[[], datetime | None] | None = None,
    ) -> None:
        self._database = database
        self._replica = replica
        self._clock = clock
        self._reached_at = reached_at or clock
        self._period_s = period_s
        self._proxies_max = proxies_max
        self._pending: dict[UUID, Heartbeat] = {}
        self._known: OrderedDict[UUID, _Known] = OrderedDict()
        self._urgent = asyncio.Event()
        """Set while a pending heartbeat should reach the keeper at once."""
        self._flushing = asyncio.Lock()
        self.stored = 0
        """Heartbeats that were stored."""
        self.flush_s = Distribution(LATENCY_S)
        self._away = False

    @property
    def pending_count(self) -> int:
        """The number of proxies whose heartbeat is not written yet."""
        return len(self._pending)

    def add(self, heartbeat: Heartbeat) -> None:
        """Add a heartbeat. Never waits. Raises StaleSignature if a newer one, or this one, came before."""
        known = self._known.get(heartbeat.proxy_id)
        if known is not None and not is_newer(heartbeat.signed_at, known.signed_at, heartbeat.heard_at):
            raise StaleSignature(known.signed_at)
        # moves to the end, so that the first entry is the oldest
        self._pending.pop(heartbeat.proxy_id, None)
        self._pending[heartbeat.proxy_id] = heartbeat
        self._drop_oldest()
        state = (heartbeat.tunnel_up, heartbeat.envoy_up, heartbeat.stopping, heartbeat.observation)
        if known is None or known.state != state:
            self._urgent.set()
        self._remember(heartbeat.proxy_id, _Known(heartbeat.signed_at, state))

    def _remember(self, proxy_id: UUID, known: _Known) -> None:
        self._known[proxy_id] = known
        self._known.move_to_end(proxy_id)
        if len(self._known) > self._proxies_max:
            self._known.popitem(last=False)

    def forget(self, proxy_id: UUID) -> None:
        """Drop the heartbeat of a removed proxy."""
        self._pending.pop(proxy_id, None)
        self._known.pop(proxy_id, None)

    async def run(self) -> None:
        """Write every `period_s`, and at once after a change, until cancelled. Then write what is pending."""
        try:
            while True:
                if await self._try_flush():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._urgent.wait(), self._period_s)
                else:
                    # after a failure, a change does not shorten the pause
                    await asyncio.sleep(self._period_s)
        finally:
            await self._finish()

    async def flush(self) -> None:
        """Write what is pending. Raises DatabaseUnreachable, and keeps the heartbeats."""
        async with self._flushing:
            batch, self._pending = self._pending, {}
            urgent = self._urgent.is_set()
            self._urgent.clear()
            began = time.monotonic()
            try:
                await self._write(batch, wakes_keeper=urgent)
                self.stored += len(batch)
                self.flush_s.observe(time.monotonic() - began)
            except BaseException:
                self._pending = batch | self._pending
                self._drop_oldest()
                if urgent:
                    self._urgent.set()
                raise

    async def _write(self, batch: dict[UUID, Heartbeat], *, wakes_keeper: bool) -> None:
        # read before the write: heartbeats that arrive from now on are not in the batch
        heard_until = self._reached_at()
        async with self._database.session() as session:
            newer = await heartbeats.store(session, [*batch.values()])
            if heard_until is not None:
                await heartbeats.record_ingest_watermark(session, self._replica, heard_until)
            if wakes_keeper:
                await heartbeats.wake_keeper(session)
        self._note_newer(newer)

    def _note_newer(self, stored: Mapping[UUID, datetime]) -> None:
        """Note the stored times of proxies whose heartbeats were dropped, because those are newer."""
        for proxy_id, signed_at in stored.items():
            known = self._known.get(proxy_id)
            if known is None or known.signed_at < signed_at:
                self._remember(proxy_id, _Known(signed_at))
        if stored:
            log.warning("heartbeats.stale", proxies=len(stored))

    async def _try_flush(self) -> bool:
        try:
            await self.flush()
        except DatabaseUnreachable as error:
            if not self._away:
                log.warning("heartbeats.kept", reason=error.message, proxies=self.pending_count)
            self._away = True
            return False
        except Exception:
            # the next attempt may succeed (after a deadlock or a full disk); heartbeats must not end the process
            log.exception("heartbeats.not_written", proxies=self.pending_count)
            return False
        if self._away:
            log.info("heartbeats.written_again")
        self._away = False
        return True

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                written = await self._try_flush()
        except TimeoutError:
            written = False
        if not written:
            log.warning("heartbeats.lost_at_stop", proxies=self.pending_count)

    def _drop_oldest(self) -> None:
        while len(self._pending) > self._proxies_max:
            del self._pending[next(iter(self._pending))]
