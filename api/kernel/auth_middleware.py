"""Who may talk to the API: operators that authenticate, and proxies that prove who they are otherwise.

Pure ASGI and outermost: a path that is not known to be open is closed, nothing of a stranger's body is read, and an unexpected
error ends here.
"""

from __future__ import annotations

from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.problems import Problem, of_outage, respond
from api.http.public_routes import is_open
from api.kernel.authentication import identify
from api.kernel.caller import STATE_KEY
from api.kernel.context import ApiContext
from api.kernel.sentinel_key import authorization_of
from model.database import DatabaseUnreachable

log = structlog.get_logger()

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OF_ONESELF: Final = "auth"
"""What is below /api/v1/auth is about the caller alone; whoever authenticated may."""


class AuthMiddleware:
    """Lets in whoever may do what a request is for, by its path and method."""

    def __init__(self, app: ASGIApp, *, context: ApiContext) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._serve(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Problem | None:
        """Why the caller is not let in: 401, 403 for what they may not do, or 503; who is let in is left in the scope."""
        try:
            caller = await identify(self._context, authorization_of(scope["path"], Headers(scope=scope)))
        except Problem as problem:
            return problem
        except DatabaseUnreachable as error:
            return of_outage(error)
        scope[STATE_KEY] = caller
        collection = _collection(scope["path"])
        return None if collection == _OF_ONESELF else caller.refusal(collection, write=scope["method"] not in _READS)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            refusal = None if is_open(scope["method"], scope["path"]) else await self._refusal(scope)
            await (self._app if refusal is None else respond(refusal))(scope, receive, sending)
        except ClientDisconnect:
            log.debug("api.client_left", path=scope["path"])
        except Exception:
            log.exception("api.failed", method=scope["method"], path=scope["path"])
            if started:
                raise
            problem = Problem(500, "internal", "the control plane failed at this request", hint="see its log")
            await respond(problem)(scope, receive, send)


def _collection(path: str) -> str:
    """`pools` of /api/v1/pools/us; of other paths what they begin with, which is no collection."""
    return path.removeprefix("/api/v1").strip("/").partition("/")[0]
