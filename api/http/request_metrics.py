"""Counts of requests by route template, method and class of status, never by path: a path names exits and users."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.paths import BASE_PATH
from model.telemetry.distribution import LATENCY_S, Distribution

NO_ROUTE: Final = "none"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(slots=True, eq=False)
class RequestCounters:
    """The requests of one replica since its start."""

    open: int = 0
    latency_s: dict[tuple[str, str, str], Distribution] = field(default_factory=dict)
    """Times until the response began, by method, route template and class of the status (`2xx`)."""

    def observe(self, method: str, route: str, status: int, took_s: float) -> None:
        key = (method if method in _METHODS else "other", route, f"{status // 100}xx")
        distribution = self.latency_s.get(key)
        if distribution is None:
            distribution = self.latency_s[key] = Distribution(LATENCY_S)
        distribution.observe(took_s)


class RequestMetrics:
    """The outermost middleware, which counts requests."""

    def __init__(self, app: ASGIApp, *, counters: RequestCounters) -> None:
        self._app = app
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()

        async def observe_start(message: Message) -> None:
            if message["type"] == "http.response.start":
                took_s = time.monotonic() - began
                self._counters.observe(scope["method"], route_template(scope), message["status"], took_s)
            await send(message)

        self._counters.open += 1
        try:
            await self._app(scope, receive, observe_start)
        finally:
            self._counters.open -= 1


def route_template(scope: Scope) -> str:
    """Return the template of the route that serves a request, as /api/v1/exits/{exit_id}; NO_ROUTE before or without one."""
    path: str = getattr(scope.get("route"), "path", NO_ROUTE)
    is_below = scope["path"].startswith(f"{BASE_PATH}/") and path != NO_ROUTE
    # the framework gives the route as its router has it, without the prefix under which the application includes it
    return f"{BASE_PATH}{path}" if is_below and not path.startswith(BASE_PATH) else path
