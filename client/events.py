"""The events of the API, by page and as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from api.features.events.schemas import EventOut, EventPage
from api.http.paths import BASE_PATH
from client.transport import Operation, QueryValue, Transport

_LIST = Operation("list_events", "GET", f"{BASE_PATH}/events", None, EventPage)


class EventsClient:
    """Events of the declared state, and of the states of exits and proxies."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def operations(self) -> Iterator[Operation[Any]]:
        yield _LIST

    async def page(self, **query: QueryValue) -> EventPage:
        """Read one page, the oldest event first. `query` takes `after`, `limit`, `cursor`, `kind` and `fleet`."""
        return (await self._transport.send(_LIST, query=query)).value

    async def follow(self, **query: QueryValue) -> AsyncIterator[EventOut]:
        """Yield events from now on, or `after` the id of one, until the connection breaks; then follow after the last id."""
        async with self._transport.stream(_LIST, query, {"Accept": "text/event-stream"}) as lines:
            async for line in lines:
                # the data of an event is one line of JSON, which repeats the other fields
                if line.startswith(b"data:"):
                    yield EventOut.model_validate_json(line.removeprefix(b"data:").strip())
