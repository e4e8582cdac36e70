"""Users: their collection, and the secrets with which their clients log in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Unpack

from api.features.users.schemas import UserIn, UserOut, UserPatch, UserSecretOut
from api.http.paths import BASE_PATH
from api.kernel.dry_run import DryRunOut
from client.collection import CollectionClient, ItemWriteOptions, split_options
from client.transport import Operation

_PATH: Final = f"{BASE_PATH}/users/{{user}}/secrets"
_CREATE = Operation("create_user_secret", "POST", _PATH, None, UserSecretOut, takes_idempotency_key=True)
_REVOKE: Operation[None] = Operation(
    "revoke_user_secret", "DELETE", f"{_PATH}/{{secret_id}}", None, None, repeatable=False
)


class UsersClient(CollectionClient[UserIn, UserPatch, UserOut]):
    """The collection of users, with the operations that only users have."""

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield from (_CREATE, _REVOKE)

    async def create_secret(self, user: object, **options: Unpack[ItemWriteOptions]) -> UserSecretOut:
        """Create a secret of a user. Only this result has the secret itself."""
        query, headers = split_options(options)
        return (await self._transport.send(_CREATE, str(user), query=query, headers=headers)).value

    async def revoke_secret(self, user: object, secret_id: str, **options: Unpack[ItemWriteOptions]) -> None:
        """Revoke a secret of a user, by its id."""
        query, headers = split_options(options)
        await self._transport.send(_REVOKE, str(user), secret_id, query=query, headers=headers)

    async def try_create_secret(self, user: object, **options: Unpack[ItemWriteOptions]) -> DryRunOut:
        """Return what `create_secret` would do, without doing it."""
        query, headers = split_options(options)
        return await self._transport.dry_run(_CREATE, str(user), query=query, headers=headers)

    async def try_revoke_secret(self, user: object, secret_id: str, **options: Unpack[ItemWriteOptions]) -> DryRunOut:
        """Return what `revoke_secret` would do, without doing it."""
        query, headers = split_options(options)
        return await self._transport.dry_run(_REVOKE, str(user), secret_id, query=query, headers=headers)
