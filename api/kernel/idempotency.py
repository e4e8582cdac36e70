"""Idempotency-Key: a POST that a client repeats after a lost response is executed once.

The response is stored in the transaction of the write, so either both are committed or neither is. It is repeated only to the
credential that got it, and only while that has the same rights: keys of one operator may see different fleets.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fastapi import Response
from sqlalchemy.ext.asyncio import AsyncSession

from api.http.field_errors import FieldError
from api.http.problems import Problem
from api.http.request_body import JsonRequest
from api.kernel.caller import Caller
from model.repositories import idempotency

REPLAYED_HEADER: Final = "Idempotency-Replayed"
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_FIELD: Final = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """A request under a key. Another request under the same key, or the same one with other rights, is an error."""

    key: str
    """The client's key; an API key's id precedes it, because each credential has keys of its own."""
    digest: str
    """The digest of the request and of the caller's rights."""

    async def recall(self, session: AsyncSession, caller: Caller) -> Response | None:
        """Read the stored response of the key; None if there is none. Waits for a request that is under way.

        Raises Problem (422) when the key was used for another request.
        """
        stored = await idempotency.find_reply(session, caller.operator_id, self.key)
        if stored is None:
            return None
        if stored.digest != self.digest:
            message = "this key was used for another request, or with other rights"
            raise Problem(422, "key_reused", message, errors=[FieldError(_FIELD, message, "use a new key", self.key)])
        return Response(
            stored.body or None, stored.status, {**stored.headers, REPLAYED_HEADER: "true"}, "application/json"
        )

    async def keep(
        self, session: AsyncSession, caller: Caller, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Store the response."""
        reply = idempotency.StoredReply(self.digest, status, headers, body.decode())
        await idempotency.save_reply(session, caller.operator_id, self.key, reply)


async def read_key(request: JsonRequest, key: str | None, caller: Caller) -> IdempotentRequest | None:
    """Read the key of a caller's request. Raises Problem (422) for a key that is not valid."""
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        message = "this is not a valid key"
        raise Problem(
            422, "bad_key", message, errors=[FieldError(_FIELD, message, "send 1 to 255 printable ASCII", key)]
        )
    parts = (
        request.method,
        request.url.path,
        request.url.query,
        caller.role,
        _names(caller.fleets),
        _names(caller.scopes),
    )
    digest = hashlib.sha256("\0".join(parts).encode() + b"\0" + await request.content()).hexdigest()
    return IdempotentRequest(key if caller.api_key_id is None else f"{caller.api_key_id} {key}", digest)


def reveal(reply: Response, field: str, secret: str) -> Response:
    """Add the secret of a created resource to the first reply.

    Call it after the write, so that the reply stored under an Idempotency-Key does not hold the secret.
    """
    if reply.status_code != 201 or REPLAYED_HEADER in reply.headers:
        return reply
    headers = {name: value for name, value in reply.headers.items() if name != "content-length"}
    content = json.loads(bytes(reply.body)) | {field: secret}
    return Response(json.dumps(content).encode(), 201, {**headers, "Cache-Control": "no-store"})


def _names(limits: Iterable[object] | None) -> str:
    return "all" if limits is None else " ".join(sorted(map(str, limits)))
