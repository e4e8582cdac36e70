"""Idempotency-Key: a POST that is repeated, because its reply was lost, is done once and answered again.

What was answered is written in the same transaction as what was done, so either both are there or neither.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
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
    """A request under a key: the same key with another request is a mistake."""

    key: str
    digest: str

    async def recall(self, session: AsyncSession, caller: Caller) -> Response | None:
        """What was answered under the key; None when nothing was. Waits for whoever is at it now.

        Raises Problem (422) when the key was used for another request.
        """
        kept = await idempotency.find_reply(session, caller.operator_id, self.key)
        if kept is None:
            return None
        if kept.digest != self.digest:
            message = "this key was used for another request"
            raise Problem(422, "key_reused", message, errors=[FieldError(_FIELD, message, "use a new key", self.key)])
        return Response(kept.body or None, kept.status, {**kept.headers, REPLAYED_HEADER: "true"}, "application/json")

    async def keep(
        self, session: AsyncSession, caller: Caller, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Keep what is answered."""
        answer = idempotency.StoredReply(self.digest, status, headers, body.decode())
        await idempotency.save_reply(session, caller.operator_id, self.key, answer)


async def read_key(request: JsonRequest, key: str | None) -> IdempotentRequest | None:
    """The key of a request, with a digest of what it asks. Raises Problem (422) for one that is no key."""
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        message = "this is not a key"
        raise Problem(
            422, "bad_key", message, errors=[FieldError(_FIELD, message, "send 1 to 255 printable ASCII", key)]
        )
    asked = b"\0".join([request.method.encode(), str(request.url.path).encode(), request.url.query.encode()])
    return IdempotentRequest(key, hashlib.sha256(asked + b"\0" + await request.content()).hexdigest())
