"""The outermost middleware: it authenticates operators, and converts unexpected errors to problems.

It is plain ASGI. A path that is not public is closed, and the body of an unauthenticated request is not read. Public routes
for proxies authenticate them on their own.
"""

from __future__ import annotations

from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.connections import note_authenticated
from api.http.problems import Problem, of_outage, respond
from api.http.public_routes import is_public
from api.kernel.authentication import identify
from api.kernel.caller import STATE_KEY
from api.kernel.context import ApiContext
from api.kernel.sentinel_key import read_authorization
from model.database import DatabaseUnreachable

log = structlog.get_logger()

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_ACCOUNT: Final = "auth"
"""Paths below /api/v1/auth concern the caller only, so every authenticated caller may use them."""


class AuthMiddleware:
    """A middleware that checks the caller's permission for the path and method of a request."""

    def __init__(self, app: ASGIApp, *, context: ApiContext) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._serve(scope, receive, send)

    async def _authorize(self, scope: Scope) -> Problem | None:
        """Authenticate the caller and store it in the scope; return a Problem (401, 403, 503) if that fails."""
        try:
            caller = await identify(self._context, read_authorization(scope["path"], Headers(scope=scope)))
        except Problem as problem:
            return problem
        except DatabaseUnreachable as error:
            return of_outage(error)
        scope[STATE_KEY] = caller
        note_authenticated(scope)
        collection = _collection(scope["path"])
        return None if collection == _OWN_ACCOUNT else caller.refusal(collection, write=scope["method"] not in _READS)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def track_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            refusal = None if is_public(scope["method"], scope["path"]) else await self._authorize(scope)
            await (self._app if refusal is None else respond(refusal))(scope, receive, track_start)
        except ClientDisconnect:
            log.debug("api.client_disconnected", path=scope["path"])
        except Exception:
            log.exception("api.request_failed", method=scope["method"], path=scope["path"])
            if started:
                raise
            problem = Problem(500, "internal", "the control plane failed to handle this request", hint="see its log")
            await respond(problem)(scope, receive, send)


def _collection(path: str) -> str:
    """The collection in a path: `pools` in /api/v1/pools/us. For other paths the result is no collection."""
    return path.removeprefix("/api/v1").strip("/").partition("/")[0]
