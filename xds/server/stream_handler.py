"""One stream between the protocol core and gRPC: bytes in, bytes out, one write at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias
from uuid import UUID

import grpc
import structlog

from xds.protocol.stream import Action, Answered, Close, Send, XdsStream
from xds.server.publisher import PendingUpdate, Publisher
from xds.server.recorder import AckRecorder

Context: TypeAlias = Any
"""grpc.aio.ServicerContext; grpcio ships no types."""
Poke: TypeAlias = Callable[[], None]
"""Says that a rollout may go on."""
log = structlog.get_logger()


class StreamHandler:
    """Drives one stream: a reader in the handler's own task, and a second task that sends what is published.

    `writing_since` is when the write began that is under way (monotonic seconds), None when there is none.
    """

    def __init__(
        self,
        stream: XdsStream,
        box: PendingUpdate,
        context: Context,
        publisher: Publisher,
        recorder: AckRecorder,
        poke: Poke,
    ) -> None:
        self.stream = stream
        self.box = box
        self.writing_since: float | None = None
        self._context = context
        self._publisher = publisher
        self._recorder = recorder
        self._poke = poke
        self._subscribed = 0
        self._turn = asyncio.Lock()
        """The core's actions leave in the order in which it gave them."""
        self._task: asyncio.Task[None] | None = None
        self._greeting: asyncio.Future[None] | None = None
        self._put_off = False
        """Whether what is pending waits for an answer."""
        self._ending: Close | None = None
        self._failure: BaseException | None = None
        self._alarm: asyncio.TimerHandle | None = None

    def end(self, status: str, message: str) -> None:
        """End the stream from outside, with a gRPC status; the first reason counts."""
        if self._ending is None and self._task is not None:
            self._ending = Close(status, message)
            self._task.cancel()

    async def run(self) -> Close | None:
        """Converse until the client ends the stream, or somebody ends it here: gives with what status to end the call."""
        self._task = asyncio.current_task()
        self.box.stream = self.stream
        pushing = asyncio.ensure_future(self._push())
        try:
            await self._read()
        except asyncio.CancelledError:
            if self._ending is None and self._failure is None:
                raise  # the call itself was cancelled: the client is gone
            assert self._task is not None
            self._task.uncancel()
        finally:
            pushing.cancel()
            if self._alarm is not None:
                self._alarm.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(pushing, return_exceptions=True)
            if self._greeting is not None:
                await asyncio.gather(self._greeting, return_exceptions=True)
        if self._context.done():
            return None  # the client is gone, whatever was being written to it
        if self._failure is not None:
            raise self._failure
        return self._ending

    async def _read(self) -> None:
        while self._ending is None:
            raw = await self._context.read()
            if raw is grpc.aio.EOF:
                return
            async with self._turn:
                await self._act(self.stream.receive(raw, time.monotonic()))
                if self._put_off and not self.box.revoked:
                    await self._publish()

    async def _push(self) -> None:
        """Send what is published, when it is, and what waited for its time."""
        try:
            while True:
                await self.box.event.wait()
                if self.box.revoked:
                    self.end("PERMISSION_DENIED", "this proxy was deregistered")
                    return
                async with self._turn:
                    await self._publish()
        except asyncio.CancelledError:
            raise
        except Exception as failure:  # noqa: BLE001 - the handler's task raises it, where gRPC looks
            self._failure = failure
            assert self._task is not None
            self._task.cancel()

    async def _publish(self) -> None:
        """Give the stream what is pending; while it could send none of that, let it gather, until an answer comes."""
        pending, now = self.box.changed, time.monotonic()
        self._put_off = bool(pending) and self.stream.is_busy(pending or ())
        if not self._put_off:
            view, changed = self.box.take()
            await self._act(self.stream.publish(view, changed, now))
            return
        self.box.event.clear()
        if self.stream.wake_at is not None and self.stream.wake_at <= now:
            await self._act(self.stream.wake(now))

    async def _act(self, actions: Sequence[Action]) -> None:
        proxy_id = self.box.identity.proxy_id
        if len(self.stream.subscriptions) != self._subscribed:
            self._subscribed = len(self.stream.subscriptions)
            for type_url in self.stream.subscriptions - self._recorder.standings(proxy_id).keys():
                self._recorder.subscribed(proxy_id, type_url, self.stream.revision)
        for action in actions:
            if isinstance(action, Send):
                self.writing_since = time.monotonic()
                await self._greet()
                await self._context.write(action.data)
                self.writing_since = None
                self._recorder.sent(proxy_id, action.type_url, self.stream.revision)
            elif isinstance(action, Answered):
                kept = self._publisher.is_kept_from(self.box, action.type_url)
                self._publisher.refuse(self._recorder.answered(self.box.identity, self.box.view, action, kept=kept))
            else:
                self.end(action.status, action.message)
        self._note_what_is_settled(proxy_id)
        if self._publisher.is_rolling_out(self.box):
            self._poke()
        self._set_alarm()

    async def _greet(self) -> None:
        """Send the initial metadata, once, and by itself.

        With a response that is given up, gRPC forgets that they went out too, and sends them again with the status.
        """
        if self._greeting is None:
            self._greeting = asyncio.ensure_future(self._context.send_initial_metadata(()))
        await asyncio.shield(self._greeting)

    def _note_what_is_settled(self, proxy_id: UUID) -> None:
        for type_url, standing in self._recorder.standings(proxy_id).items():
            behind = standing.accepted_revision is None or standing.accepted_revision < standing.wanted_revision
            if not behind or self.box.is_pending(type_url) or not self.stream.is_settled(type_url):
                continue
            if not self._publisher.is_kept_from(self.box, type_url):
                self._recorder.settled(standing)

    def _set_alarm(self) -> None:
        """Wake the pusher when the core wants to be woken."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.stream.wake_at is not None:
            delay_s = max(0.0, self.stream.wake_at - time.monotonic())
            self._alarm = asyncio.get_running_loop().call_later(delay_s, self.box.event.set)
