"""The writer of the record: no change is lost at the end, and no save overwrites a later one."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent.ads.config_record import AcceptedResource, ConfigRecord
from agent.ads.record_writer import RecordWriter
from xds.translate.names import CLUSTER

PATIENCE_S = 60
PAUSE_S = 0.2
"""The time in which a forbidden event could happen. A slow machine does not make the test fail."""


class SlowRecordStore:
    """A store whose first save blocks until `gate` is set."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.gate = threading.Event()
        self.written: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._first = True

    def save(self, content: bytes) -> None:
        first, self._first = self._first, False
        self._loop.call_soon_threadsafe(self.begun.set)
        if first:
            assert self.gate.wait(PATIENCE_S)
        (version,) = {each.version for each in ConfigRecord.decode(content).types[CLUSTER].values()}
        self.written.append(version)

    def remove(self) -> None:
        self.written.append("nothing")


@pytest.fixture
async def store():
    slow = SlowRecordStore()
    yield slow
    slow.gate.set()


@pytest.fixture
def record():
    return ConfigRecord()


@pytest.fixture
def writer(record, store, monkeypatch):
    monkeypatch.setattr("agent.ads.record_writer.QUIET_S", 0)
    return RecordWriter(record, store)


def accept(record, version: str) -> None:
    record.update(CLUSTER, {"a": AcceptedResource(version, b"")})


async def wait_for_save(store) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await store.begun.wait()


async def wait_for(*tasks: asyncio.Task) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*tasks)


async def test_stop_waits_for_running_save_and_writes_later_change(record, store, writer):
    writer.start()
    accept(record, "v1")
    await wait_for_save(store)
    accept(record, "v2")
    stopping = asyncio.create_task(writer.stop())
    await asyncio.wait({stopping}, timeout=PAUSE_S)
    assert not stopping.done()
    assert store.written == []

    store.gate.set()
    await wait_for(stopping)
    assert store.written == ["v1", "v2"]


async def test_stop_returns_after_last_save(record, store, writer):
    writer.start()
    accept(record, "v1")
    await wait_for_save(store)
    stopping = asyncio.create_task(writer.stop())
    await asyncio.wait({stopping}, timeout=PAUSE_S)
    assert not stopping.done()

    store.gate.set()
    await wait_for(stopping)
    assert store.written == ["v1"]


async def test_later_save_waits_for_save_of_cancelled_caller(record, store, writer):
    accept(record, "v1")
    first = asyncio.create_task(writer.flush())
    await wait_for_save(store)
    first.cancel()
    await asyncio.wait({first})
    accept(record, "v2")
    second = asyncio.create_task(writer.flush())
    await asyncio.wait({second}, timeout=PAUSE_S)
    store.gate.set()

    await wait_for(second)
    assert store.written == ["v1", "v2"]


async def test_flush_of_cleared_record_removes_file_after_running_save(record, store, writer):
    """A proxy that was denied must not find its record again after a slow save."""
    accept(record, "v1")
    first = asyncio.create_task(writer.flush())
    await wait_for_save(store)
    first.cancel()
    record.clear()
    second = asyncio.create_task(writer.flush())
    await asyncio.wait({second}, timeout=PAUSE_S)
    store.gate.set()

    await wait_for(second)
    assert store.written == ["v1", "nothing"]


async def test_flush_without_change_writes_nothing(record, store, writer):
    store.gate.set()
    accept(record, "v1")
    await writer.flush()
    await writer.flush()
    assert store.written == ["v1"]


async def test_stop_without_start_writes_nothing(record, store, writer):
    store.gate.set()
    accept(record, "v1")
    await writer.stop()
    assert store.written == []
