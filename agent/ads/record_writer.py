"""The writer of the record: one save at a time, the newest last, and none that a cancelled caller cuts short."""

from __future__ import annotations

import asyncio
from typing import Final

from agent.ads.config_record import ConfigRecord
from agent.ads.encrypted_store import EncryptedStore

QUIET_S: Final = 0.5
"""The record is written once it has not changed for this long, …"""
WRITTEN_AFTER_S: Final = 5.0
"""… or after this long if it never stops."""


class RecordWriter:
    """Keeps the file up to the record from `start` to `stop`."""

    def __init__(self, record: ConfigRecord, vault: EncryptedStore) -> None:
        self._record = record
        self._vault = vault
        self._turn = asyncio.Lock()
        self._saves: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._following = asyncio.create_task(self._follow(), name="record")

    async def stop(self) -> None:
        """Wait for the save that runs, then write what is newer."""
        if self._following is None:
            return
        self._following.cancel()
        await asyncio.wait({self._following})
        await self.flush()

    async def flush(self) -> None:
        """Bring the file up to the record.

        A save runs in a thread, which no cancellation ends. So it is a task of its own that keeps its turn until the thread is
        done: were the turn given up with the caller, a later save could be overtaken by this one.
        """
        saving = asyncio.create_task(self._save(), name="record save")
        self._saves.add(saving)
        saving.add_done_callback(self._saves.discard)
        await asyncio.shield(saving)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._record.changed.wait()
            deadline_s, seen = loop.time() + WRITTEN_AFTER_S, -1
            while seen != self._record.revision and loop.time() < deadline_s:
                seen = self._record.revision
                await asyncio.sleep(QUIET_S)
            await self.flush()

    async def _save(self) -> None:
        async with self._turn:
            if not self._record.changed.is_set():
                return
            self._record.changed.clear()
            if self._record.types:
                await asyncio.to_thread(self._vault.save, self._record.encode())
            else:
                self._vault.remove()
