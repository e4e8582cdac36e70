"""One write: a transaction that becomes a revision, which the reply names."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, Header, Query, Request, Response
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from api.http.paths import BASE_PATH, PROXIES_HEADER, REVISION_HEADER
from api.http.request_body import JsonRequest
from api.kernel.caller import Authenticated, Caller, Permission
from api.kernel.context import ApiContext, Context, ReadContext
from api.kernel.dry_run import DryRunOut
from api.kernel.dry_run_diff import compare
from api.kernel.idempotency import IdempotentRequest, read_key
from model.audit_log import Actor
from model.repositories import sync, worlds
from model.repositories.sync import AckCount
from model.unit_of_work import UnitOfWork
from model.unit_of_work import write as begin

LONGEST_WAIT_S = 30.0
_LOOK_EVERY_S = 0.05
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(?P<seconds>[0-9]{1,6})\"?\s*(?=$|[,;])", re.IGNORECASE)
Prefer = Annotated[
    str | None,
    Header(description="`wait=5`: reply when the proxies that this concerns have answered, 5 seconds later at most."),
]
DryRun = Annotated[
    bool, Query(description="Only tell what it would answer, and what of which proxies' configuration it would change.")
]
Approve = Annotated[
    Literal["shrink"] | None,
    Query(description="`shrink`: yes, although it leaves less than half of the pools or healthy exits of the fleet."),
]
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class WriteReply:
    """What a write replies: a status, maybe a body, and headers."""

    status: int
    body: BaseModel | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        return b"" if self.body is None else self.body.model_dump_json(by_alias=True).encode()


@dataclass(slots=True)
class WriteContext:
    """What is done within one write: the unit, for whom, and when."""

    unit: UnitOfWork
    caller: Caller
    look: ReadContext
    now: datetime
    approve: str | None = None
    """`shrink`: yes, although it leaves less than half of a fleet."""
    watched: bool = False
    """Whether somebody compares already what a fleet offers before and after."""
    forgotten: list[UUID] = field(default_factory=list)
    """Proxies that are removed, whose credentials are worth nothing once this is committed."""

    @property
    def session(self) -> AsyncSession:
        return self.unit.session

    def forget_proxy(self, proxy_id: UUID) -> None:
        """A proxy is removed: this replica should know it at once."""
        self.forgotten.append(proxy_id)


class _OnlyTried(Exception):
    """Ends the transaction of a dry run."""


@dataclass(frozen=True, slots=True)
class Write:
    """What an endpoint that changes something is given."""

    context: ApiContext
    response: Response
    traceparent: str | None
    wait_s: float | None = None
    """How long the reply may wait for the proxies that the write concerns; None: not at all."""
    actor: Actor = field(default_factory=Actor)

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[UnitOfWork]:
        """A unit that is committed when the block ends well; the reply then says its revision.

        A block that touched nothing makes no revision: the reply says the one that holds.
        """
        async with begin(self.context.database, traceparent=self.traceparent, actor=self.actor) as unit:
            yield unit
        self.response.headers.update(await self.outcome(unit))

    def locate(self, path: str) -> None:
        """Say where the created thing is, below the base path."""
        self.response.headers["Location"] = f"{BASE_PATH}/{path}"

    async def outcome(self, unit: UnitOfWork) -> dict[str, str]:
        """The headers that tell what became of a committed unit."""
        revision = unit.revision
        if revision is None:
            revision = await worlds.current_revision(self.context.database)
        headers = {REVISION_HEADER: str(revision)}
        if self.wait_s is not None:
            tally = await self._wait(revision, self.wait_s)
            headers["Preference-Applied"] = f"wait={self.wait_s:g}"
            headers[PROXIES_HEADER] = (
                f"acknowledged={tally.acknowledged}, rejected={tally.rejected}, pending={tally.pending}"
            )
        return headers

    async def _wait(self, revision: int, wait_s: float) -> AckCount:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            async with self.context.database.session() as session:
                tally = await sync.count_acks(session, revision)
            if tally.done or loop.time() >= deadline:
                return tally
            await asyncio.sleep(min(_LOOK_EVERY_S, max(0.0, deadline - loop.time())))


@dataclass(frozen=True, slots=True)
class OperatorWrite:
    """What an endpoint that operators change something with is given."""

    write: Write
    caller: Caller
    keyed: IdempotentRequest | None
    """The Idempotency-Key and what was asked under it."""
    dry_run: bool
    approve: str | None

    @property
    def context(self) -> ApiContext:
        return self.write.context

    async def run(self, do: Callable[[WriteContext], Awaitable[WriteReply]]) -> Response:
        """Do it in one transaction and reply; in a dry run, tell what would have been and leave nothing.

        Under an Idempotency-Key the answer is kept with what was done, and given again to whoever repeats it.
        """
        context, write = self.context, self.write
        work: WriteContext | None = None
        tried: DryRunOut | None = None
        try:
            async with begin(context.database, traceparent=write.traceparent, actor=self.caller.actor) as unit:
                if self.keyed is not None:
                    kept = await self.keyed.recall(unit.session, self.caller)
                    if kept is not None:
                        return kept
                work = WriteContext(unit, self.caller, context.look(unit.session), context.clock(), self.approve)
                answer = await do(work)
                if self.dry_run:
                    tried = await self._tell(unit, answer)
                    raise _OnlyTried  # noqa: TRY301 - what ends a transaction without a trace
                if self.keyed is not None:
                    await unit.seal()
                    revision = {} if unit.revision is None else {REVISION_HEADER: str(unit.revision)}
                    await self.keyed.keep(
                        unit.session, self.caller, answer.status, {**answer.headers, **revision}, answer.content()
                    )
        except _OnlyTried:
            assert tried is not None
            return _response(200, tried.model_dump_json().encode(), {})
        for proxy_id in work.forgotten:
            context.credentials.forget(proxy_id)
            context.sink.forget(proxy_id)
        return _response(answer.status, answer.content(), {**answer.headers, **await write.outcome(unit)})

    async def _tell(self, unit: UnitOfWork, answer: WriteReply) -> DryRunOut:
        await unit.session.flush()
        differences = await compare(unit, await self.context.world())
        body = None if answer.body is None else answer.body.model_dump(mode="json", by_alias=True)
        return DryRunOut(status=answer.status, body=body, differences=differences)


def _response(status: int, content: bytes, headers: dict[str, str]) -> Response:
    media_type = "application/json" if content else None
    return Response(content or None, status, headers, media_type)


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
"""For what is no operator's write."""


def writing(collection: str) -> Any:
    """A dependency: what an operator who may write to a collection is given. The type is OperatorWrite."""
    permit = Permission(collection, write=True)

    async def given(
        request: JsonRequest,
        write: Writing,
        caller: Authenticated,
        idempotency_key: Annotated[
            str | None,
            Header(max_length=255, description="Repeat the same request under the same key, and it is done once."),
        ] = None,
        approve: Approve = None,
        *,
        dry_run: DryRun = False,
    ) -> OperatorWrite:
        caller = await permit(caller)
        keyed = await read_key(request, idempotency_key) if request.method == "POST" and not dry_run else None
        return OperatorWrite(write, caller, keyed, dry_run, approve)

    return Depends(given)
