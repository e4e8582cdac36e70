"""Where heartbeats wait until they are written together (docs/architecture.md#heartbeats-are-not-configuration)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from model.database import Database, DatabaseUnreachable
from model.repositories import heartbeats
from model.repositories.heartbeats import Heartbeat

log = structlog.get_logger()

PROXIES_MAX = 100_000
_STOP_TIMEOUT_S = 5.0


class HeartbeatSink:
    """Collects the newest heartbeat of each proxy and writes them in one transaction every `period_s`.

    That transaction also says until when this replica could hear, heartbeats or not. One that tells something new (a
    tunnel or an Envoy that went up or down, a proxy that leaves or is heard for the first time) does not wait for the
    period, and wakes the keeper. While PostgreSQL is away the heartbeats are kept, the newest of each proxy.

    `run` is a task for a TaskGroup. End it after the HTTP server has stopped: it then writes what is left.
    """

    def __init__(
        self,
        database: Database,
        *,
        replica: str,
        clock: Callable[[], datetime],
        period_s: float = 1.0,
        proxies_max: int = PROXIES_MAX,
    ) -> None:
        self._database = database
        self._replica = replica
        self._clock = clock
        self._period_s = period_s
        self._proxies_max = proxies_max
        self._pending: dict[UUID, Heartbeat] = {}
        self._said: OrderedDict[UUID, tuple[bool, bool, bool, Mapping[str, Any] | None]] = OrderedDict()
        self._news = asyncio.Event()
        """Set while something pending should reach the keeper at once."""
        self._flushing = asyncio.Lock()
        self._away = False

    @property
    def pending_count(self) -> int:
        """Proxies whose heartbeat is not yet written."""
        return len(self._pending)

    def hear(self, heartbeat: Heartbeat) -> None:
        """Take a heartbeat in. Never waits."""
        # to the end, so that the first is the one heard longest ago
        self._pending.pop(heartbeat.proxy_id, None)
        self._pending[heartbeat.proxy_id] = heartbeat
        self._drop_oldest()
        said = (heartbeat.tunnel_up, heartbeat.envoy_up, heartbeat.leaving, heartbeat.observation)
        if self._said.get(heartbeat.proxy_id) != said:
            self._said[heartbeat.proxy_id] = said
            self._news.set()
        self._said.move_to_end(heartbeat.proxy_id)
        if len(self._said) > self._proxies_max:
            self._said.popitem(last=False)

    def forget(self, proxy_id: UUID) -> None:
        """Drop what was heard of a proxy that is removed."""
        self._pending.pop(proxy_id, None)
        self._said.pop(proxy_id, None)

    async def run(self) -> None:
        """Write every `period_s`, and at once when there is news, until cancelled; then write what is left."""
        try:
            while True:
                if await self._try_flush():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), self._period_s)
                else:
                    # news does not hurry an attempt that has just failed
                    await asyncio.sleep(self._period_s)
        finally:
            await self._finish()

    async def flush(self) -> None:
        """Write what is pending. Raises DatabaseUnreachable, having kept it."""
        async with self._flushing:
            batch, self._pending = self._pending, {}
            news = self._news.is_set()
            self._news.clear()
            try:
                await self._write(batch, wakes_keeper=news)
            except BaseException:
                self._pending = batch | self._pending
                self._drop_oldest()
                if news:
                    self._news.set()
                raise

    async def _write(self, batch: dict[UUID, Heartbeat], *, wakes_keeper: bool) -> None:
        # taken before the write: what is heard from here on is not in the batch
        heard_until = self._clock()
        async with self._database.session() as session:
            await heartbeats.store(session, [*batch.values()])
            await heartbeats.record_ingest_watermark(session, self._replica, heard_until)
            if wakes_keeper:
                await heartbeats.wake_keeper(session)

    async def _try_flush(self) -> bool:
        try:
            await self.flush()
        except DatabaseUnreachable as error:
            if not self._away:
                log.warning("heartbeats.kept", reason=error.message, proxies=self.pending_count)
            self._away = True
            return False
        except Exception:
            # the next attempt may do better (a deadlock, a full disk); heartbeats must not end the process
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
