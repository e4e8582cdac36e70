"""A stream of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import datetime

import structlog
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from api.features.events.rendering import show
from api.http.problems import Problem, respond
from api.kernel.caller import Caller
from api.runtime.event_hub import EventHub
from model.database import DatabaseUnreachable
from model.repositories.events import Event, EventBatch, EventFilter, EventsGone

log = structlog.get_logger()
_SEPARATOR = "\n"
_RETRY_MS = 2_000
_PAUSE_S = 0.5


class EventStream(EventSourceResponse):
    """The streaming response. It occupies one of the replica's stream slots while it runs."""

    def __init__(self, hub: EventHub, feed: EventFeed) -> None:
        # no pings by the library: the feed sends its own comments, with the id that it has reached
        super().__init__(feed.run(), ping=0, sep=_SEPARATOR, send_timeout=hub.stalled_after_s)
        self._hub = hub
        self._operator_id = feed.operator_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._hub.open_stream(self._operator_id):
                await super().__call__(scope, receive, send)
        except Problem as problem:
            await respond(problem)(scope, receive, send)
        except SendTimeoutError:
            log.info("events.reader_stalled", after_s=self._hub.stalled_after_s)


class EventFeed:
    """The events that one client asked for and may see, from its position on."""

    def __init__(
        self,
        hub: EventHub,
        *,
        position: int,
        caller: Caller,
        filter_for: Callable[[Caller], EventFilter],
        reauthenticate: Callable[[], Awaitable[Caller]],
        clock: Callable[[], datetime],
    ) -> None:
        self._hub = hub
        self._position = position
        self._filter_for = filter_for
        self._reauthenticate = reauthenticate
        self._clock = clock
        self._now = asyncio.get_running_loop().time
        self._comment_at = self._now() + hub.keepalive_s
        self.operator_id = caller.operator_id
        self._admit_caller(caller)

    def _admit_caller(self, caller: Caller) -> None:
        """Set the caller's filter, and when to check the caller again: no later than the credential expires."""
        self._filter = self._filter_for(caller)
        valid_s = self._hub.check_every_s
        if caller.expires_at is not None:
            valid_s = min(valid_s, (caller.expires_at - self._clock()).total_seconds())
        self._check_at = self._now() + valid_s

    async def run(self) -> AsyncIterator[ServerSentEvent]:
        """Yield events, and a comment after each silence of `keepalive_s`. End when the caller loses the right to read events."""
        # the id comes with it, so that a client cut off before the first event resumes at the same position
        yield self._comment("from here on", retry=_RETRY_MS)
        while not (self._hub.closing or self._hub.failed):
            turned = self._hub.changed
            try:
                if self._now() >= self._check_at:
                    self._admit_caller(await self._reauthenticate())
                batch = await self._hub.read_after(self._position, self._filter)
            except (Problem, EventsGone) as error:
                log.info("events.stream_ended", code=error.code)
                return
            except DatabaseUnreachable:
                # an outage: there is nothing to send until PostgreSQL is back
                batch = EventBatch((), self._position, more=False)
                await asyncio.sleep(_PAUSE_S)
            for event in batch.events:
                if self._interrupted:
                    break
                yield self._send(event)
            if not (batch.more or self._interrupted):
                self._position = batch.position
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, min(self._comment_at, self._check_at) - self._now())):
                        await turned.wait()
            if self._now() >= self._comment_at:
                yield self._comment("alive")

    def _send(self, event: Event) -> ServerSentEvent:
        shown = show(event)
        self._position = event.id
        self._comment_at = self._now() + self._hub.keepalive_s
        return ServerSentEvent(shown.model_dump_json(), event=shown.type, id=str(event.id), sep=_SEPARATOR)

    @property
    def _interrupted(self) -> bool:
        """True if the next event must wait for a check or an end: the client may have read the previous one slowly."""
        return self._hub.closing or self._now() >= self._check_at

    def _comment(self, comment: str, retry: int | None = None) -> ServerSentEvent:
        self._comment_at = self._now() + self._hub.keepalive_s
        return ServerSentEvent(comment=comment, id=str(self._position), retry=retry, sep=_SEPARATOR)
