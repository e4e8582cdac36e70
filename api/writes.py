"""One write: a transaction that becomes a revision, which the reply names."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Response

from api.context import ApiContext, Context
from model.changes import Unit
from model.changes import write as begin
from model.repositories import worlds

REVISION_HEADER = "Exitplane-Revision"
BASE_PATH = "/api/v1"
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Write:
    """What an endpoint that changes something is given."""

    context: ApiContext
    response: Response
    traceparent: str | None

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[Unit]:
        """A unit that is committed when the block ends well; the reply then says its revision.

        A block that touched nothing makes no revision: the reply says the one that holds.
        """
        async with begin(self.context.database, traceparent=self.traceparent) as unit:
            yield unit
        revision = unit.revision
        if revision is None:
            revision = await worlds.current_revision(self.context.database)
        self.response.headers[REVISION_HEADER] = str(revision)

    def locate(self, path: str) -> None:
        """Say where the created thing is, below the base path."""
        self.response.headers["Location"] = f"{BASE_PATH}/{path}"


async def _writing(request: Request, response: Response, context: Context) -> Write:
    return Write(context, response, read_traceparent(request.headers.get("traceparent")))


def read_traceparent(header: str | None) -> str | None:
    """The W3C trace context that came with a request; None when there is none or it is malformed (then a trace restarts)."""
    return header if header and _TRACEPARENT.fullmatch(header) else None


Writing = Annotated[Write, Depends(_writing)]
