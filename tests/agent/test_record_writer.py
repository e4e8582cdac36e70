"""The writer of the record: no save is lost at the end, and none is overtaken by an older one."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent.ads.config_record import AcceptedResource, ConfigRecord
from agent.ads.record_writer import RecordWriter
from xds.translate.names import CLUSTER

BOUND_S = 60
A_WHILE_S = 0.2
"""How long something is given to happen that must not: a slow machine makes the test no redder."""


class SlowVault:
    """Holds every save up until it is let go; the first one apart, they may be let go beforehand."""

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
            assert self.gate.wait(BOUND_S)
        (version,) = {kept.version for kept in ConfigRecord.decode(content).types[CLUSTER].values()}
        self.written.append(version)

    def remove(self) -> None:
        self.written.append("nothing")


@pytest.fixture
async def vault():
    slow = SlowVault()
    yield slow
    slow.gate.set()


@pytest.fixture
def record():
    return ConfigRecord()


@pytest.fixture
def writer(record, vault, monkeypatch):
    monkeypatch.setattr("agent.ads.record_writer.QUIET_S", 0)
    return RecordWriter(record, vault)


def accept(record, version: str) -> None:
    record.put(CLUSTER, {"a": AcceptedResource(version, b"")})


async def begun(vault) -> None:
    async with asyncio.timeout(BOUND_S):
        await vault.begun.wait()


async def ended(*tasks: asyncio.Task) -> None:
    async with asyncio.timeout(BOUND_S):
        await asyncio.gather(*tasks)


async def test_stop_waits_for_the_running_save_and_writes_what_is_newer(record, vault, writer):
    writer.start()
    accept(record, "v1")
    await begun(vault)
    accept(record, "v2")
    stopping = asyncio.create_task(writer.stop())
    await asyncio.wait({stopping}, timeout=A_WHILE_S)
    assert not stopping.done()
    assert vault.written == []

    vault.gate.set()
    await ended(stopping)
    assert vault.written == ["v1", "v2"]


async def test_stop_does_not_return_before_the_last_save_has_ended(record, vault, writer):
    writer.start()
    accept(record, "v1")
    await begun(vault)
    stopping = asyncio.create_task(writer.stop())
    await asyncio.wait({stopping}, timeout=A_WHILE_S)
    assert not stopping.done()

    vault.gate.set()
    await ended(stopping)
    assert vault.written == ["v1"]


async def test_save_of_a_cancelled_caller_is_not_overtaken_by_itself(record, vault, writer):
    accept(record, "v1")
    first = asyncio.create_task(writer.flush())
    await begun(vault)
    first.cancel()
    await asyncio.wait({first})
    accept(record, "v2")
    second = asyncio.create_task(writer.flush())
    await asyncio.wait({second}, timeout=A_WHILE_S)
    vault.gate.set()

    await ended(second)
    assert vault.written == ["v1", "v2"]


async def test_flush_of_a_cleared_record_removes_the_file_after_a_save(record, vault, writer):
    """A proxy that was denied must not find its record again because a save took longer."""
    accept(record, "v1")
    first = asyncio.create_task(writer.flush())
    await begun(vault)
    first.cancel()
    record.clear()
    second = asyncio.create_task(writer.flush())
    await asyncio.wait({second}, timeout=A_WHILE_S)
    vault.gate.set()

    await ended(second)
    assert vault.written == ["v1", "nothing"]


async def test_flush_without_a_change_writes_nothing(record, vault, writer):
    vault.gate.set()
    accept(record, "v1")
    await writer.flush()
    await writer.flush()
    assert vault.written == ["v1"]


async def test_stop_of_a_writer_that_never_started_writes_nothing(record, vault, writer):
    vault.gate.set()
    accept(record, "v1")
    await writer.stop()
    assert vault.written == []
