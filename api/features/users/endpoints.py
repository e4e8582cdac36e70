"""The endpoints of the collection /users, with the secrets of users."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Response

from api.features.users.schemas import UserSecretOut
from api.features.users.service import USERS
from api.http.openapi import document_operator_errors, document_write_errors
from api.http.parameters import Ref
from api.http.paths import BASE_PATH
from api.kernel.collections.router import OfFleet, router_of
from api.kernel.dry_run import DryRunOut
from api.kernel.idempotency import reveal
from api.kernel.writes import OperatorWrite, WriteContext, WriteReply, require_write

router = router_of(USERS)
Writing = Annotated[OperatorWrite, require_write(USERS.name)]
_DRY_RUN: dict[int | str, dict[str, Any]] = {200: {"model": DryRunOut, "description": "The result of a dry run"}}


@router.post(
    "/{user}/secrets",
    status_code=201,
    response_model=UserSecretOut,
    responses={**document_write_errors(404, 409), **_DRY_RUN},
)
async def create_user_secret(user: Ref, write: Writing, of_fleet: OfFleet = None) -> Response:
    """Create a secret of a user, who may have two, so that clients can be given the new one before the old one is revoked.

    Only this reply holds the secret itself.
    """
    secret = ""

    async def do(work: WriteContext) -> WriteReply:
        nonlocal secret
        row = await USERS.lock(work, user, of_fleet)
        shown, secret = await USERS.add_secret(work, row)
        return WriteReply(201, shown, {"Location": f"{BASE_PATH}/users/{row.id}/secrets/{shown.id}"})

    return reveal(await write.run(do), "secret", secret)


@router.delete(
    "/{user}/secrets/{secret_id}",
    status_code=204,
    responses={**document_operator_errors(404, 409, 422), **_DRY_RUN},
)
async def revoke_user_secret(
    user: Ref,
    secret_id: Annotated[str, Path(description="The id of the secret: its first character.")],
    write: Writing,
    of_fleet: OfFleet = None,
) -> Response:
    """Revoke a secret of a user. Open tunnels stay open."""

    async def do(work: WriteContext) -> WriteReply:
        row = await USERS.lock(work, user, of_fleet)
        await USERS.revoke_secret(work, row, secret_id)
        return WriteReply(204)

    return await write.run(do)
