"""One write: a transaction that becomes a revision, which the reply names."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request, Response

from api.context import ApiContext, Context
from model.changes import Unit
from model.changes import write as begin
from model.repositories import sync, worlds
from model.repositories.sync import Tally

REVISION_HEADER = "Exitplane-Revision"
PROXIES_HEADER = "Exitplane-Proxies"
"""Of the connected proxies that a write concerns, how many acknowledged, rejected, or did not answer in time."""
LONGEST_WAIT_S = 30.0
_LOOK_EVERY_S = 0.05
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(?P<seconds>[0-9]{1,6})\"?\s*(?=$|[,;])", re.IGNORECASE)
Prefer = Annotated[
    str | None,
    Header(description="`wait=5`: reply when the proxies that this concerns have answered, 5 seconds later at most."),
]
BASE_PATH = "/api/v1"
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Write:
    """What an endpoint that changes something is given."""

    context: ApiContext
    response: Response
    traceparent: str | None
    wait_s: float | None = None
    """How long the reply may wait for the proxies that the write concerns; None: not at all."""

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
        if self.wait_s is not None:
            tally = await self._wait(revision, self.wait_s)
            self.response.headers["Preference-Applied"] = f"wait={self.wait_s:g}"
            self.response.headers[PROXIES_HEADER] = (
                f"acknowledged={tally.acknowledged}, rejected={tally.rejected}, pending={tally.pending}"
            )

    async def _wait(self, revision: int, wait_s: float) -> Tally:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            async with self.context.database.session() as session:
                tally = await sync.tally(session, revision)
            if tally.done or loop.time() >= deadline:
                return tally
            await asyncio.sleep(min(_LOOK_EVERY_S, max(0.0, deadline - loop.time())))

    def locate(self, path: str) -> None:
        """Say where the created thing is, below the base path."""
        self.response.headers["Location"] = f"{BASE_PATH}/{path}"


async def _writing(request: Request, response: Response, context: Context, prefer: Prefer = None) -> Write:
    traceparent = read_traceparent(request.headers.get("traceparent"))
    return Write(context, response, traceparent, read_wait(prefer))


def read_wait(prefer: str | None) -> float | None:
    """The `wait` of a Prefer header in seconds, at most LONGEST_WAIT_S (RFC 7240, section 4.3); None without a good one."""
    found = _WAIT.search(prefer) if prefer else None
    return min(float(found["seconds"]), LONGEST_WAIT_S) if found else None


def read_traceparent(header: str | None) -> str | None:
    """The W3C trace context that came with a request; None when there is none or it is malformed (then a trace restarts)."""
    return header if header and _TRACEPARENT.fullmatch(header) else None


Writing = Annotated[Write, Depends(_writing)]
