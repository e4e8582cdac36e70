"""The handler of one stream, between the protocol core and gRPC: bytes in, bytes out, one write at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias
from uuid import UUID

import grpc
import structlog

from xds.protocol.stream import Action, Answered, Close, Send, XdsStream
from xds.server.counters import XdsCounters
from xds.server.publisher import PendingUpdate, Publisher
from xds.server.recorder import AckRecorder

Context: TypeAlias = Any
"""grpc.aio.ServicerContext; grpcio has no types."""
log = structlog.get_logger()


class StreamHandler:
    """Runs one stream: the task of the gRPC call reads requests, and a second task sends published updates.

    `writing_since` is the start of the current write (monotonic seconds), None while nothing is being written.
    """

    def __init__(
        self,
        protocol: XdsStream,
        pending: PendingUpdate,
        context: Context,
        publisher: Publisher,
        recorder: AckRecorder,
        counters: XdsCounters,
    ) -> None:
        self.protocol = protocol
        self.pending = pending
        self.writing_since: float | None = None
        self._context = context
        self._publisher = publisher
        self._recorder = recorder
        self._counters = counters
        self._subscribed = 0
        """Number of types that are recorded as subscribed."""
        self._lock = asyncio.Lock()
        """Keeps the actions of the protocol core in the order in which it returned them."""
        self._task: asyncio.Task[None] | None = None
        self._sending_metadata: asyncio.Future[None] | None = None
        self._is_deferred = False
        """True while the pending update waits for an answer of the client."""
        self._close: Close | None = None
        self._failure: BaseException | None = None
        self._wake_timer: asyncio.TimerHandle | None = None

    def end(self, status: str, message: str) -> None:
        """End the stream with a gRPC status. Only the first call counts."""
        if self._close is None and self._task is not None:
            self._close = Close(status, message)
            self._task.cancel()

    async def run(self) -> Close | None:
        """Serve the stream until it ends. Return the status for the call; None if the client ended it."""
        self._task = asyncio.current_task()
        self.pending.stream = self.protocol
        pushing = asyncio.ensure_future(self._push())
        try:
            await self._read()
        except asyncio.CancelledError:
            if self._close is None and self._failure is None:
                raise  # the call itself was cancelled: the client is gone
            assert self._task is not None
            self._task.uncancel()
        finally:
            pushing.cancel()
            if self._wake_timer is not None:
                self._wake_timer.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(pushing, return_exceptions=True)
            if self._sending_metadata is not None:
                await asyncio.gather(self._sending_metadata, return_exceptions=True)
        if self._context.done():
            return None  # the client is gone, whatever was being written
        if self._failure is not None:
            raise self._failure
        return self._close

    async def _read(self) -> None:
        while self._close is None:
            raw = await self._context.read()
            if raw is grpc.aio.EOF:
                return
            async with self._lock:
                expired = self.protocol.expired_nonces
                actions = self.protocol.receive(raw, time.monotonic())
                self._counters.expired_nonces += self.protocol.expired_nonces - expired
                await self._perform(actions)
                if self._is_deferred and not self.pending.revoked:
                    await self._publish()

    async def _push(self) -> None:
        """Send published updates, and what the protocol core delayed until `wake_at`."""
        try:
            while True:
                await self.pending.event.wait()
                if self.pending.revoked:
                    self.end("UNAVAILABLE", "this proxy is no longer known here")
                    return
                async with self._lock:
                    await self._publish()
        except asyncio.CancelledError:
            raise
        except Exception as failure:  # noqa: BLE001 - raised again by the task of the call, where gRPC sees it
            self._failure = failure
            assert self._task is not None
            self._task.cancel()

    async def _publish(self) -> None:
        """Pass the pending update to the protocol core; defer it while none of it could be sent, so that updates merge."""
        type_urls, now = self.pending.changed, time.monotonic()
        answered, self.pending.answered = self.pending.answered, {}
        for type_url, names in answered.items():
            await self._perform(self.protocol.accepted_elsewhere(type_url, names, now))
        self._is_deferred = bool(type_urls) and self.protocol.is_blocked(type_urls or ())
        if not self._is_deferred:
            if self.pending.since is not None:
                self._counters.queue_s.observe(max(0.0, now - self.pending.since))
            view, changed = self.pending.take()
            await self._perform(self.protocol.publish(view, changed, now))
            return
        self.pending.event.clear()
        if self.protocol.wake_at is not None and self.protocol.wake_at <= now:
            await self._perform(self.protocol.wake(now))

    async def _perform(self, actions: Sequence[Action]) -> None:
        proxy_id = self.pending.identity.proxy_id
        if len(self.protocol.subscriptions) != self._subscribed:
            self._subscribed = len(self.protocol.subscriptions)
            for type_url in self.protocol.subscriptions - self._recorder.sync_states(proxy_id).keys():
                self._recorder.record_subscribed(proxy_id, type_url, self.protocol.revision)
        for action in actions:
            if isinstance(action, Send):
                self.writing_since = time.monotonic()
                await self._send_metadata()
                await self._context.write(action.data)
                self.writing_since = None
                self._recorder.record_sent(proxy_id, action.type_url, self.protocol.revision, len(action.data))
            elif isinstance(action, Answered):
                self._record_answer(action)
            else:
                self.end(action.status, action.message)
        self._record_in_sync(proxy_id)
        self._publisher.wake_rollouts_of(self.pending)
        self._set_wake_timer()

    async def _send_metadata(self) -> None:
        """Send the initial metadata once, in a task of its own.

        If gRPC sent them with a response and that write was cancelled, it would send them again with the status.
        """
        if self._sending_metadata is None:
            self._sending_metadata = asyncio.ensure_future(self._context.send_initial_metadata(()))
        await asyncio.shield(self._sending_metadata)

    def _record_answer(self, answered: Answered) -> None:
        withheld = self._publisher.is_withheld(self.pending, answered.type_url)
        self._publisher.report_answer(self.pending, answered.type_url, answered.resources)
        identity, view = self.pending.identity, self.pending.view
        self._publisher.add_rejections(self._recorder.record_answer(identity, view, answered, withheld=withheld))

    def _record_in_sync(self, proxy_id: UUID) -> None:
        """Record the types of which the client accepted everything that it should have."""
        for type_url, state in self._recorder.sync_states(proxy_id).items():
            behind = state.accepted_revision is None or state.accepted_revision < state.wanted_revision
            if not behind or self.pending.is_pending(type_url) or not self.protocol.is_in_sync(type_url):
                continue
            if not self._publisher.is_withheld(self.pending, type_url):
                self._recorder.record_in_sync(state)

    def _set_wake_timer(self) -> None:
        """Wake the sending task when the protocol core asks for it."""
        if self._wake_timer is not None:
            self._wake_timer.cancel()
            self._wake_timer = None
        if self.protocol.wake_at is not None:
            delay_s = max(0.0, self.protocol.wake_at - time.monotonic())
            self._wake_timer = asyncio.get_running_loop().call_later(delay_s, self.pending.event.set)
