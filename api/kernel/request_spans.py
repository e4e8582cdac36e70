"""A span for each request of an authenticated operator, the root or a child of its trace (docs/tracing.md).

Requests without an operator make none, so strangers cannot fill a collector. Heartbeats of proxies are among them.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.request_metrics import NO_ROUTE, route_template
from api.kernel.caller import STATE_KEY
from model.telemetry.spans import is_tracing, span

_KEY: Final = "exitplane.traceparent"
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class RequestSpans:
    """A middleware inside the authentication. Without a tracer it costs a comparison."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_tracing() or STATE_KEY not in scope:
            await self._app(scope, receive, send)
            return
        parent = read_traceparent(Headers(scope=scope).get("traceparent"))
        method: str = scope["method"]
        with span(method, parent, {"http.request.method": method}, serves=True) as traced:
            assert traced is not None
            scope[_KEY] = traced.traceparent

            async def note_status(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status: int = message["status"]
                    traced.set(http__response__status_code=status)
                    if status >= 500:
                        traced.fail(f"status {status}")
                await send(message)

            try:
                await self._app(scope, receive, note_status)
            finally:
                route = route_template(scope)
                if route != NO_ROUTE:
                    traced.rename(f"{method} {route}")
                    traced.set(http__route=route)


def traceparent_of(scope: Scope) -> str | None:
    """Return the trace context of a request's span; None if it has none."""
    found: str | None = scope.get(_KEY)
    return found


def read_traceparent(header: str | None) -> str | None:
    """Check a request's W3C trace context; None when it is missing or malformed, which begins a new trace."""
    return header if header and _TRACEPARENT.fullmatch(header) else None
