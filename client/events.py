"""What changed: as pages, and as it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from api.features.events.schemas import EventOut, EventPage
from api.http.paths import BASE_PATH
from client.transport import Operation, Transport, Value

_LIST = Operation("list_events", "GET", f"{BASE_PATH}/events", None, EventPage)


class EventsClient:
    """Events of the declared state and of what became of it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def operations(self) -> Iterator[Operation[Any]]:
        yield _LIST

    async def page(self, **query: Value) -> EventPage:
        """One page, the oldest event first: `after`, `limit`, `cursor`, `kind`, `fleet`."""
        return (await self._transport.send(_LIST, query=query)).value

    async def follow(self, **query: Value) -> AsyncIterator[EventOut]:
        """What happens from now on (or `after` an event), until the connection breaks: then go on after the last id."""
        async with self._transport.stream(_LIST, query, {"Accept": "text/event-stream"}) as lines:
            async for line in lines:
                # an event is one line of JSON; the other fields say what is in it
                if line.startswith(b"data:"):
                    yield EventOut.model_validate_json(line.removeprefix(b"data:").strip())
