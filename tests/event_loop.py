"""The event loop of the tests: each test has one of its own, while gRPC has one poller for the whole process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any

from grpc._cython import cygrpc  # gRPC has no public name for what its poller calls


class GrpcTolerantLoop(asyncio.SelectorEventLoop):
    """An event loop that ignores what gRPC's poller hands it after it was closed.

    gRPC completes the last operations of a test, such as a cancelled call, on its own threads, perhaps after the test has ended.
    The poller passes them to the test's loop from the loop of a later test, where a closed loop would be an error.
    """

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self.is_closed() and callback is cygrpc._handle_callback_wrapper:
            return asyncio.Handle(callback, args, self, context)
        return super().call_soon_threadsafe(callback, *args, context=context)


class GrpcTolerantPolicy(asyncio.DefaultEventLoopPolicy):
    """The policy that makes these loops."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return GrpcTolerantLoop()
