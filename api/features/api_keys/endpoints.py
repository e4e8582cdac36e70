"""The endpoints of the collection /api-keys."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Response

from api.features.api_keys.schemas import ApiKeyIn, ApiKeyOut
from api.features.api_keys.service import API_KEYS
from api.http.openapi import document_write_errors
from api.http.paths import BASE_PATH
from api.kernel.collections.router import CHANGE, DELETE, router_of
from api.kernel.dry_run import DryRunOut
from api.kernel.idempotency import reveal
from api.kernel.writes import OperatorWrite, WriteContext, WriteReply, require_write
from api.runtime.tokens import new_key

router = router_of(API_KEYS, can=frozenset({CHANGE, DELETE}))
Writing = Annotated[OperatorWrite, require_write(API_KEYS.name)]
_DRY_RUN: dict[int | str, dict[str, Any]] = {200: {"model": DryRunOut, "description": "The result of a dry run"}}


@router.post("", status_code=201, response_model=ApiKeyOut, responses={**document_write_errors(404, 409), **_DRY_RUN})
async def create_api_key(body: ApiKeyIn, write: Writing) -> Response:
    """Create an API key of the caller. Only this reply holds the key itself."""
    secret = new_key()

    async def do(work: WriteContext) -> WriteReply:
        created = await API_KEYS.show_one(work.read, await API_KEYS.add(work, body, secret))
        headers = {"Location": f"{BASE_PATH}/{API_KEYS.name}/{created.id}", "ETag": API_KEYS.etag(created)}
        return WriteReply(201, created, headers)

    return reveal(await write.run(do), "key", secret)
