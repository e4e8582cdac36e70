"""Who may talk to the API while operators do not authenticate: programs on this host, and proxies that prove who they are.

Pure ASGI and outermost, so that it also is the place where an unexpected error ends.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem, respond

log = structlog.get_logger()

_HEALTH = re.compile(r"/health(/ready|/startup)?")
_OF_PROXIES = re.compile(r"/api/v1/(exits|proxies)/(register|[^/]+/heartbeat)")
"""What proxies POST; they show a join token or a proof of their own."""


class Guard:
    """Lets operators in from loopback only, under a name of this host."""

    def __init__(self, app: ASGIApp, *, host_names: frozenset[str]) -> None:
        self._app = app
        self._host_names = host_names | {"localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        problem = None if _is_open(scope) else self._refusal(scope)
        if problem is not None:
            await respond(problem)(scope, receive, send)
            return
        await self._serve(scope, receive, send)

    def _refusal(self, scope: Scope) -> Problem | None:
        if not is_loopback((scope.get("client") or ("",))[0]):
            return Problem(
                403,
                "operators_loopback_only",
                "operators do not authenticate yet, so the API answers them on this host only",
                mend="call it from this host, for example through `ssh -L 8000:127.0.0.1:8000`",
            )
        host = Headers(scope=scope).get("host", "")
        if not self._names_this_host(host):
            # a page in a browser here can reach loopback under a name of its own (DNS rebinding)
            return Problem(
                421,
                "host_not_ours",
                f"the request is for the host {host[:100]!r}, which is no name of this one",
                mend="use localhost or an IP address, or add the name to the host names in the settings",
            )
        return None

    def _names_this_host(self, host: str) -> bool:
        name = re.sub(r":\d*$", "", host.strip().lower())
        if name in self._host_names:
            return True
        try:
            ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            log.debug("api.client_left", path=scope["path"])
        except Exception:
            log.exception("api.failed", method=scope["method"], path=scope["path"])
            if started:
                raise
            problem = Problem(500, "internal", "the control plane failed at this request", mend="see its log")
            await respond(problem)(scope, receive, send)


def is_loopback(address: str) -> bool:
    """Whether an address is of this host's loopback, also as an IPv4 address within IPv6."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped.is_loopback
    return parsed.is_loopback


def _is_open(scope: Scope) -> bool:
    path = scope["path"]
    if scope["method"] == "POST":
        return _OF_PROXIES.fullmatch(path) is not None
    return scope["method"] == "GET" and _HEALTH.fullmatch(path) is not None
