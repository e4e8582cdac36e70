"""Join tokens: their collection, in which tokens are created and revoked, but not changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Unpack

from api.features.join_tokens.schemas import JoinTokenIn, JoinTokenOut
from api.http.paths import BASE_PATH
from api.kernel.dry_run import DryRunOut
from client.collection import ItemWriteOptions, ReadableCollection, WriteOptions, split_options
from client.transport import Operation, Transport

_PATH: Final = f"{BASE_PATH}/join-tokens"
_CREATE = Operation("create_join_token", "POST", _PATH, JoinTokenIn, JoinTokenOut, takes_idempotency_key=True)
_DELETE: Operation[None] = Operation(
    "delete_join_token", "DELETE", f"{_PATH}/{{join_token_id}}", None, None, repeatable=False
)


class JoinTokensClient(ReadableCollection[JoinTokenOut]):
    """The collection of join tokens."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "join-tokens", "join-token", JoinTokenOut)

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield from (_CREATE, _DELETE)

    async def create(self, item: JoinTokenIn, **options: Unpack[WriteOptions]) -> JoinTokenOut:
        """Create a token. Only this result has the token itself."""
        query, headers = split_options(options)
        return (await self._transport.send(_CREATE, query=query, body=item, headers=headers)).value

    async def delete(self, token_id: object, **options: Unpack[ItemWriteOptions]) -> None:
        """Revoke a token, by its id."""
        query, headers = split_options(options)
        await self._transport.send(_DELETE, str(token_id), query=query, headers=headers)

    async def try_create(self, item: JoinTokenIn, **options: Unpack[WriteOptions]) -> DryRunOut:
        """Return what `create` would do, without doing it."""
        query, headers = split_options(options)
        return await self._transport.dry_run(_CREATE, query=query, body=item, headers=headers)

    async def try_delete(self, token_id: object, **options: Unpack[ItemWriteOptions]) -> DryRunOut:
        """Return what `delete` would do, without doing it."""
        query, headers = split_options(options)
        return await self._transport.dry_run(_DELETE, str(token_id), query=query, headers=headers)
