"""Writes: each is one transaction that becomes a revision, whose number the response names."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
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
from api.kernel.request_spans import read_traceparent, traceparent_of
from api.runtime.passwords import Argon2Hasher
from model.audit_log import Actor
from model.container_policy import ContainerPolicy
from model.repositories import sync, worlds
from model.repositories.sync import AckCount
from model.unit_of_work import UnitOfWork
from model.unit_of_work import write as begin

LONGEST_WAIT_S = 30.0
_POLL_S = 0.05
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(?P<seconds>[0-9]{1,6})\"?\s*(?=$|[,;])", re.IGNORECASE)
Prefer = Annotated[
    str | None,
    Header(description="`wait=5`: respond when the affected proxies have acknowledged or rejected, or after 5 s."),
]
DryRun = Annotated[
    bool, Query(description="Write nothing; respond with what the write would change, and in which proxies.")
]
Approve = Annotated[
    Literal["shrink"] | None,
    Query(description="`shrink`: allow a write that leaves less than half of the fleet's pools or healthy exits."),
]


@dataclass(frozen=True, slots=True)
class WriteReply:
    """The response of a write: a status, headers, and a body unless it is None."""

    status: int
    body: BaseModel | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        return b"" if self.body is None else self.body.model_dump_json(by_alias=True).encode()


@dataclass(slots=True)
class WriteContext:
    """The context of one write by an operator: the unit of work, the caller, the time, and the replica's password hasher."""

    unit: UnitOfWork
    caller: Caller
    read: ReadContext
    now: datetime
    password_hasher: Argon2Hasher
    approve: str | None = None
    """`shrink`: the write may leave less than half of a fleet."""
    allows_local_parents: bool = False
    """Operators may declare parents on their exits' own hosts."""
    container_policy: ContainerPolicy = field(default_factory=ContainerPolicy)
    certificate_folder: Path | None = None
    allows_local_channels: bool = False
    """Channels may name the control plane's own host."""
    is_guarded: bool = False
    """True while a block compares what a fleet offers before and after it."""
    removed_proxies: list[UUID] = field(default_factory=list)
    """Removed proxies, whose certificates are worthless after the commit."""

    @property
    def session(self) -> AsyncSession:
        return self.unit.session

    def add_removed_proxy(self, proxy_id: UUID) -> None:
        """Have this replica forget a removed proxy at once after the commit."""
        self.removed_proxies.append(proxy_id)


class _DryRunRollback(Exception):
    """Ends the transaction of a dry run."""


@dataclass(frozen=True, slots=True)
class Write:
    """A write with the parts of its request that every write takes."""

    context: ApiContext
    response: Response
    traceparent: str | None
    wait_s: float | None = None
    """The longest time that the response waits for the affected proxies; None: it does not wait."""
    actor: Actor = field(default_factory=Actor)

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[UnitOfWork]:
        """Begin a unit that is committed when the block ends without an error. The response then names its revision.

        A block that touches nothing makes no revision. The response then names the current one.
        """
        async with begin(self.context.database, traceparent=self.traceparent, actor=self.actor) as unit:
            yield unit
        self.response.headers.update(await self.build_headers(unit))

    def locate(self, path: str) -> None:
        """Set the Location header to a path below the base path."""
        self.response.headers["Location"] = f"{BASE_PATH}/{path}"

    async def build_headers(self, unit: UnitOfWork) -> dict[str, str]:
        """Build the response headers of a committed unit, after the wait for proxies if there is one."""
        revision = unit.revision
        if revision is None:
            revision = await worlds.current_revision(self.context.database)
        headers = {REVISION_HEADER: str(revision)}
        if self.wait_s is not None:
            count = await self._wait(revision, self.wait_s)
            headers["Preference-Applied"] = f"wait={self.wait_s:g}"
            headers[PROXIES_HEADER] = (
                f"acknowledged={count.acknowledged}, rejected={count.rejected}, pending={count.pending}"
            )
        return headers

    async def _wait(self, revision: int, wait_s: float) -> AckCount:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            async with self.context.database.session() as session:
                count = await sync.count_acks(session, revision)
            if count.done or loop.time() >= deadline:
                return count
            await asyncio.sleep(min(_POLL_S, max(0.0, deadline - loop.time())))


@dataclass(frozen=True, slots=True)
class OperatorWrite:
    """A write by an operator, with the caller and the query parameters of its request."""

    write: Write
    caller: Caller
    idempotent_request: IdempotentRequest | None
    """The request under its Idempotency-Key; None without a key."""
    dry_run: bool
    approve: str | None

    @property
    def context(self) -> ApiContext:
        return self.write.context

    async def run(self, do: Callable[[WriteContext], Awaitable[WriteReply]]) -> Response:
        """Run `do` in one transaction and respond. A dry run responds with what it would change, and is rolled back.

        Under an Idempotency-Key the response is stored in the same transaction, and repeated for the same request.
        """
        context, write = self.context, self.write
        work: WriteContext | None = None
        result: DryRunOut | None = None
        try:
            async with begin(context.database, traceparent=write.traceparent, actor=self.caller.actor) as unit:
                if self.idempotent_request is not None:
                    stored = await self.idempotent_request.recall(unit.session, self.caller)
                    if stored is not None:
                        return stored
                work = WriteContext(
                    unit,
                    self.caller,
                    context.begin_read(unit.session),
                    context.clock(),
                    context.auth_state.password_hasher,
                    self.approve,
                    context.allows_local_parents,
                    context.container_policy,
                    context.certificate_folder,
                    context.allows_local_channels,
                )
                reply = await do(work)
                if self.dry_run:
                    result = await self._describe(unit, reply)
                    raise _DryRunRollback  # noqa: TRY301 - an exception rolls the transaction back
                if self.idempotent_request is not None:
                    await unit.seal()
                    revision = {} if unit.revision is None else {REVISION_HEADER: str(unit.revision)}
                    await self.idempotent_request.keep(
                        unit.session, self.caller, reply.status, {**reply.headers, **revision}, reply.content()
                    )
        except _DryRunRollback:
            assert result is not None
            return _response(200, result.model_dump_json().encode(), {})
        for proxy_id in work.removed_proxies:
            context.certificate_cache.forget(proxy_id)
            context.heartbeat_sink.forget(proxy_id)
        return _response(reply.status, reply.content(), {**reply.headers, **await write.build_headers(unit)})

    async def _describe(self, unit: UnitOfWork, reply: WriteReply) -> DryRunOut:
        await unit.session.flush()
        differences = await compare(unit, await self.context.world_cache.read(self.context.database))
        body = None if reply.body is None else reply.body.model_dump(mode="json", by_alias=True)
        return DryRunOut(status=reply.status, body=body, differences=differences)


def _response(status: int, content: bytes, headers: dict[str, str]) -> Response:
    media_type = "application/json" if content else None
    return Response(content or None, status, headers, media_type)


async def _begin_write(request: Request, response: Response, context: Context, prefer: Prefer = None) -> Write:
    traceparent = traceparent_of(request.scope) or read_traceparent(request.headers.get("traceparent"))
    return Write(context, response, traceparent, read_wait(prefer))


def read_wait(prefer: str | None) -> float | None:
    """Read `wait` of a Prefer header in seconds (RFC 7240, section 4.3), at most LONGEST_WAIT_S; None if it is not valid."""
    found = _WAIT.search(prefer) if prefer else None
    return min(float(found["seconds"]), LONGEST_WAIT_S) if found else None


RequestWrite = Annotated[Write, Depends(_begin_write)]
"""The write of a request, whoever sends it."""


def require_write(collection: str) -> Any:
    """Make a dependency that gives an OperatorWrite to callers who may write to a collection."""
    permission = Permission(collection, write=True)

    async def authorize(
        request: JsonRequest,
        write: RequestWrite,
        caller: Authenticated,
        idempotency_key: Annotated[
            str | None,
            Header(max_length=255, description="A request that is repeated under the same key is executed once."),
        ] = None,
        approve: Approve = None,
        *,
        dry_run: DryRun = False,
    ) -> OperatorWrite:
        caller = await permission(caller)
        idempotent = (
            await read_key(request, idempotency_key, caller) if request.method == "POST" and not dry_run else None
        )
        return OperatorWrite(write, caller, idempotent, dry_run, approve)

    return Depends(authorize)
