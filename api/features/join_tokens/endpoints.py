"""The endpoints of the collection /join-tokens."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Response

from api.features.join_tokens.schemas import JoinTokenIn, JoinTokenOut
from api.features.join_tokens.service import JOIN_TOKENS
from api.http.openapi import document_write_errors
from api.http.paths import BASE_PATH
from api.kernel.collections.router import DELETE, router_of
from api.kernel.dry_run import DryRunOut
from api.kernel.idempotency import reveal
from api.kernel.writes import OperatorWrite, WriteContext, WriteReply, require_write

router = router_of(JOIN_TOKENS, can=frozenset({DELETE}))
Writing = Annotated[OperatorWrite, require_write(JOIN_TOKENS.name)]
_DRY_RUN: dict[int | str, dict[str, Any]] = {200: {"model": DryRunOut, "description": "The result of a dry run"}}


@router.post(
    "", status_code=201, response_model=JoinTokenOut, responses={**document_write_errors(404, 409), **_DRY_RUN}
)
async def create_join_token(body: JoinTokenIn, write: Writing) -> Response:
    """Create a join token, for one registration within an hour unless the body says otherwise.

    Only this reply holds the token itself. With `takes_over`, the proxy that registers with it gets the name of another one,
    whose certificates end at once: heartbeats with them get 410, and their xDS streams are closed.
    """
    secret = ""

    async def do(work: WriteContext) -> WriteReply:
        nonlocal secret
        row, secret = await JOIN_TOKENS.add(work, body)
        created = await JOIN_TOKENS.show_one(work.read, row)
        headers = {"Location": f"{BASE_PATH}/{JOIN_TOKENS.name}/{created.id}", "ETag": JOIN_TOKENS.etag(created)}
        return WriteReply(201, created, headers)

    return reveal(await write.run(do), "token", secret)
