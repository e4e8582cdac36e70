"""The writer of the config record: one save at a time, in order, and never interrupted by a cancelled caller."""

from __future__ import annotations

import asyncio
from typing import Final

from agent.ads.config_record import ConfigRecord
from agent.ads.encrypted_store import EncryptedStore

QUIET_S: Final = 0.5
"""The record is written once it is unchanged for this long."""
DELAY_MAX_S: Final = 5.0
"""The record is written after this long, even if it keeps changing."""


class RecordWriter:
    """Keeps the file up to date with the record, between `start` and `stop`."""

    def __init__(self, record: ConfigRecord, store: EncryptedStore) -> None:
        self._record = record
        self._store = store
        self._lock = asyncio.Lock()
        self._saves: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow(), name="record")

    async def stop(self) -> None:
        """Wait for the running save, then write later changes."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        await self.flush()

    async def flush(self) -> None:
        """Write the record now, if it changed.

        A save runs in a thread, which cancellation does not stop. So its own task holds the lock until the thread ends. If a cancelled
        caller released the lock, this save could overwrite a later one.
        """
        save = asyncio.create_task(self._save(), name="record save")
        self._saves.add(save)
        save.add_done_callback(self._saves.discard)
        await asyncio.shield(save)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._record.changed.wait()
            deadline_s, revision = loop.time() + DELAY_MAX_S, -1
            while revision != self._record.revision and loop.time() < deadline_s:
                revision = self._record.revision
                await asyncio.sleep(QUIET_S)
            await self.flush()

    async def _save(self) -> None:
        async with self._lock:
            if not self._record.changed.is_set():
                return
            self._record.changed.clear()
            if self._record.types:
                await asyncio.to_thread(self._store.save, self._record.encode())
            else:
                self._store.remove()
