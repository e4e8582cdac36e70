"""One stream of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

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
    """The response that is a stream; it takes its place among those of the replica when it begins."""

    def __init__(self, hub: EventHub, stream: EventFeed) -> None:
        # the stream says itself that it is alive, with the id up to which there was nothing
        super().__init__(stream.run(), ping=0, sep=_SEPARATOR, send_timeout=hub.stalled_after_s)
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._hub.open_stream():
                await super().__call__(scope, receive, send)
        except Problem as problem:
            await respond(problem)(scope, receive, send)
        except SendTimeoutError:
            log.info("events.reader_stalled", after_s=self._hub.stalled_after_s)


class EventFeed:
    """What one client is sent: the events that it wants and may see, after those that it has."""

    def __init__(
        self,
        hub: EventHub,
        *,
        position: int,
        caller: Caller,
        wanted: Callable[[Caller], EventFilter],
        ask: Callable[[], Awaitable[Caller]],
        clock: Callable[[], datetime],
    ) -> None:
        self._hub = hub
        self._position = position
        self._wanted = wanted
        self._ask = ask
        self._clock = clock
        self._now = asyncio.get_running_loop().time
        self._quiet_at = self._now() + hub.keepalive_s
        self._admit(caller)

    def _admit(self, caller: Caller) -> None:
        """Whom it is for, until that is asked again: when their credential expires at the latest."""
        self._wants = self._wanted(caller)
        left_s = self._hub.check_every_s
        if caller.expires_at is not None:
            left_s = min(left_s, (caller.expires_at - self._clock()).total_seconds())
        self._check_at = self._now() + left_s

    async def run(self) -> AsyncIterator[ServerSentEvent]:
        """The events, and a comment whenever there was none for a while. Ends when the caller may not any more."""
        # the id goes along, so that who is cut off before the first event comes back to where they began
        yield self._say("from here on", retry=_RETRY_MS)
        while not (self._hub.closing or self._hub.failed):
            changed = self._hub.changed
            try:
                if self._now() >= self._check_at:
                    self._admit(await self._ask())
                reading = await self._hub.read_after(self._position, self._wants)
            except (Problem, EventsGone) as error:
                log.info("events.stream_ended", code=error.code)
                return
            except DatabaseUnreachable:
                # nothing can have happened that the client could be told of
                reading = EventBatch((), self._position, more=False)
                await asyncio.sleep(_PAUSE_S)
            for event in reading.events:
                if self._interrupted:
                    break
                yield self._tell(event)
            if not (reading.more or self._interrupted):
                self._position = reading.position
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, min(self._quiet_at, self._check_at) - self._now())):
                        await changed.wait()
            if self._now() >= self._quiet_at:
                yield self._say("alive")

    def _tell(self, event: Event) -> ServerSentEvent:
        shown = show(event)
        self._position = event.id
        self._quiet_at = self._now() + self._hub.keepalive_s
        return ServerSentEvent(shown.model_dump_json(), event=shown.type, id=str(event.id), sep=_SEPARATOR)

    @property
    def _interrupted(self) -> bool:
        """Whether something comes before the next event: the client may have taken its time with the one before."""
        return self._hub.closing or self._now() >= self._check_at

    def _say(self, comment: str, retry: int | None = None) -> ServerSentEvent:
        self._quiet_at = self._now() + self._hub.keepalive_s
        return ServerSentEvent(comment=comment, id=str(self._position), retry=retry, sep=_SEPARATOR)
