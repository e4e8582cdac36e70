"""Tests of the tests' event loop."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from tests.event_loop import GrpcTolerantLoop


async def test_tests_run_on_tolerant_loops():
    assert isinstance(asyncio.get_running_loop(), GrpcTolerantLoop)


def test_late_completion_of_an_ended_test_reaches_no_other_loop():
    late = asyncio.Event()

    class EndedLoop(GrpcTolerantLoop):
        def call_soon_threadsafe(self, *args, **options):
            handle = super().call_soon_threadsafe(*args, **options)
            if self.is_closed():
                late.set()
            return handle

    errors = []
    loops = EndedLoop(), GrpcTolerantLoop()
    loops[1].set_exception_handler(lambda _loop, context: errors.append(context))
    channel = loops[0].run_until_complete(_watch(0.2))
    loops[0].close()
    loops[1].run_until_complete(_wait_for(late))
    loops[1].run_until_complete(channel.close())
    loops[1].close()
    assert not errors


async def _watch(seconds: float) -> grpc.aio.Channel:
    """Return a channel with a watch that is still open."""
    channel = grpc.aio.insecure_channel("127.0.0.1:1")
    watch = channel._channel.watch_connectivity_state(grpc.ChannelConnectivity.IDLE.value[0], time.time() + seconds)
    task = asyncio.ensure_future(watch)
    await asyncio.sleep(0)  # it begins
    task.cancel()
    return channel


async def _wait_for(late: asyncio.Event) -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1"), asyncio.timeout(30):
        await late.wait()


def test_closed_loop_refuses_everything_else():
    loop = GrpcTolerantLoop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon_threadsafe(print)
