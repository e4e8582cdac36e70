"""The collection /api-keys."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import Response

from api.features.api_keys.schemas import ApiKeyIn, ApiKeyOut
from api.features.api_keys.service import API_KEYS
from api.http.openapi import document_write_errors
from api.http.paths import BASE_PATH
from api.kernel.collections.router import CHANGE, DELETE, router_of
from api.kernel.dry_run import DryRunOut
from api.kernel.idempotency import REPLAYED_HEADER
from api.kernel.writes import OperatorWrite, WriteContext, WriteReply, require_write
from api.runtime.tokens import new_key

router = router_of(API_KEYS, can=frozenset({CHANGE, DELETE}))
Writing = Annotated[OperatorWrite, require_write(API_KEYS.name)]
_TRIED: dict[int | str, dict[str, Any]] = {200: {"model": DryRunOut, "description": "With `dry_run`."}}


@router.post("", status_code=201, response_model=ApiKeyOut, responses={**document_write_errors(404, 409), **_TRIED})
async def create_api_key(wish: ApiKeyIn, write: Writing) -> Response:
    """Make an API key of one's own. The reply is the only time that it can be read."""
    secret = new_key()

    async def do(work: WriteContext) -> WriteReply:
        made = await API_KEYS.show_one(work.read, await API_KEYS.add(work, wish, secret))
        headers = {"Location": f"{BASE_PATH}/{API_KEYS.name}/{made.id}", "ETag": API_KEYS.etag(made)}
        return WriteReply(201, made, headers)

    reply = await write.run(do)
    if reply.status_code != 201 or REPLAYED_HEADER in reply.headers:
        return reply
    # only now: what is kept under an Idempotency-Key does not hold the secret
    headers = {name: value for name, value in reply.headers.items() if name != "content-length"}
    body = json.loads(bytes(reply.body)) | {"key": secret}
    return Response(json.dumps(body).encode(), 201, {**headers, "Cache-Control": "no-store"})
