"""The API's replies as plain JSON values, for programs that show them, like the command line.

No schema is imported or checked, so it costs little to start, and fields that a newer API has pass as they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from api.http.paths import BASE_PATH
from client.errors import ApiUnreachable
from client.transport import Body, Operation, Transport, Value


class Item(dict[str, Any]):
    """An object of JSON. Raises ApiUnreachable for a field that it does not have: then the API is of another version."""

    def __missing__(self, field: str) -> Any:
        raise ApiUnreachable(f"what the API says has no {field}", hint="use the same version on both sides")


class JsonClient:
    """Asks by path and by collection. All methods raise ApiRefused, ApiUnreachable.

    A path is below the API's base, such as `/fleets/{fleet}/rollout`, and `place` fills its braces.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self, path: str, *place: str, **query: Value) -> Item:
        """Read a path."""
        return await self._send("GET", path, place, query)

    async def post(self, path: str, *place: str, **query: Value) -> Item:
        """Have something done that takes no body. It is done once, however often it has to be sent."""
        return await self._send("POST", path, place, query)

    async def page(self, collection: str, **query: Value) -> tuple[list[Item], str | None]:
        """The items of one page of a collection, and the cursor of the next one."""
        found = await self.get(f"/{collection}", **query)
        return found["items"], found["next"]

    async def list(self, collection: str, **query: Value) -> AsyncIterator[Item]:
        """All items of a collection, page by page: `sort`, the filters of the collection, and `limit` for the size of a page."""
        while True:
            items, cursor = await self.page(collection, **query)
            for item in items:
                yield item
            if cursor is None:
                return
            query["cursor"] = cursor

    async def read(self, collection: str, ref: str, *, fleet: str | None = None) -> Item:
        """One thing of a collection, by its id or name."""
        return await self.get(f"/{collection}/{{ref}}", ref, fleet=fleet)

    async def delete(self, collection: str, *refs: str, fleet: str | None = None, approve: str | None = None) -> None:
        """Delete things of a collection, by ids or names: all in one revision, or none. Not every collection takes several."""
        query = {"fleet": fleet, "approve": approve}
        if len(refs) == 1:
            path = f"{BASE_PATH}/{collection}/{{ref}}"
            one: Operation[None] = Operation(f"DELETE {path}", "DELETE", path, None, None, repeatable=False)
            await self._transport.send(one, *refs, query=query)
        else:
            await self._send("POST", f"/{collection}/bulk", (), query, {"delete": refs})

    async def _send(
        self, method: str, path: str, place: Iterable[str], query: Mapping[str, Value], body: Body | None = None
    ) -> Item:
        operation: Operation[Item] = Operation(
            f"{method} {path}", method, f"{BASE_PATH}{path}", None, Item, keyed=method == "POST"
        )
        return (await self._transport.send(operation, *place, query=query, body=body)).value
