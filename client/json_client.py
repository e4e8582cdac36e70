"""The API's replies as plain JSON values, for programs that only show them, like the command line.

No schema is imported or checked, so a program starts fast, and fields of a newer API pass unchanged.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from api.http.paths import BASE_PATH
from client.errors import ApiUnreachable
from client.transport import Body, Operation, QueryValue, Transport


class Item(dict[str, Any]):
    """A JSON object. A missing field raises ApiUnreachable, because the API is of another version."""

    def __missing__(self, field: str) -> Any:
        raise ApiUnreachable(f"the API's reply has no {field}", hint="use the same version on both sides")


class JsonClient:
    """Requests by path and by collection. Methods raise ApiRefused, ApiUnreachable.

    A path is relative to the API's base, such as `/fleets/{fleet}/rollout`; `path_args` fill its braces:
    `await api.json.get("/fleets/{fleet}/rollout", "demo")`.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self, path: str, *path_args: str, **query: QueryValue) -> Item:
        """Read a path."""
        return await self._send("GET", path, path_args, query)

    async def post(self, path: str, *path_args: str, **query: QueryValue) -> Item:
        """Post to a path without a body. An Idempotency-Key lets repeated requests take effect once."""
        return await self._send("POST", path, path_args, query)

    async def put(self, path: str, *path_args: str, **query: QueryValue) -> Item:
        """Put to a path without a body."""
        return await self._send("PUT", path, path_args, query)

    async def page(self, collection: str, **query: QueryValue) -> tuple[list[Item], str | None]:
        """Read the items of one page of a collection, and the cursor of the next one."""
        found = await self.get(f"/{collection}", **query)
        return found["items"], found["next"]

    async def list(self, collection: str, **query: QueryValue) -> AsyncIterator[Item]:
        """Read all items of a collection, page by page. `query` takes `sort`, filters, and `limit`, the size of a page."""
        while True:
            items, cursor = await self.page(collection, **query)
            for item in items:
                yield item
            if cursor is None:
                return
            query["cursor"] = cursor

    async def read(self, collection: str, ref: str, *, fleet: str | None = None) -> Item:
        """Read one object of a collection by its id or name."""
        return await self.get(f"/{collection}/{{ref}}", ref, fleet=fleet)

    async def create(self, collection: str, body: Body) -> Item:
        """Create one object of a collection."""
        return await self._send("POST", f"/{collection}", (), {}, body)

    async def change(self, collection: str, ref: str, body: Body) -> Item:
        """Change the fields of one object of a collection that the body has."""
        return await self._send("PATCH", f"/{collection}/{{ref}}", (ref,), {}, body)

    async def delete(self, collection: str, *refs: str, fleet: str | None = None, approve: str | None = None) -> None:
        """Delete objects of a collection, by ids or names: all in one revision, or none. Some collections allow one at a time."""
        query = {"fleet": fleet, "approve": approve}
        if len(refs) == 1:
            path = f"{BASE_PATH}/{collection}/{{ref}}"
            one: Operation[None] = Operation(f"DELETE {path}", "DELETE", path, None, None, repeatable=False)
            await self._transport.send(one, *refs, query=query)
        else:
            await self._send("POST", f"/{collection}/bulk", (), query, {"delete": refs})

    async def _send(
        self,
        method: str,
        path: str,
        path_args: Iterable[str],
        query: Mapping[str, QueryValue],
        body: Body | None = None,
    ) -> Item:
        operation: Operation[Item] = Operation(
            f"{method} {path}", method, f"{BASE_PATH}{path}", None, Item, takes_idempotency_key=method == "POST"
        )
        return (await self._transport.send(operation, *path_args, query=query, body=body)).value
