"""The HTTP server with bounds on connections and on the heads of requests (model/connection_table.py)."""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import get_remote_addr

from model.connection_table import ConnectionTable

HEAD_MAX_BYTES: Final = 64 * 1024
"""The largest head of a request, which the parser does not bound itself."""
_EXTENSION: Final = "exitplane.authenticated"
_CHECK_S: Final = 1.0


def note_authenticated(scope: Scope) -> None:
    """Tell the server that the request of `scope` is authenticated, so that its connection no longer waits."""
    note: Callable[[], None] | None = scope.get("extensions", {}).get(_EXTENSION)
    if note is not None:
        note()


class BoundedProtocol(HttpToolsProtocol):
    """A connection that waits in the table until its request is authenticated."""

    table: ClassVar[ConnectionTable[Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        for each in self.table.add(self, self.client[0] if self.client else ""):
            each.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.table.remove(self)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self.table.wait(self)
        self.scope["extensions"] = {_EXTENSION: partial(self.table.serve, self)}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_MAX_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")


class TlsHandshake(SSLProtocol):
    """TLS on a connection, which waits in the table from its acceptance until the handshake is complete.

    asyncio tells the protocol above of a connection only then, and strangers need not complete theirs.
    """

    max_size = 16 * 1024
    """The buffer of a connection in bytes: one record (RFC 8446, section 5.1). asyncio's is sixteen times as large."""

    def __init__(self, table: ConnectionTable[Any], context: ssl.SSLContext, http: BoundedProtocol) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        done.add_done_callback(self._leave_table)
        super().__init__(loop, http, context, done, server_side=True)
        self._table = table

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        client = get_remote_addr(transport)
        super().connection_made(transport)
        for each in self._table.add(self, client[0] if client else ""):
            each.transport.abort()

    def _leave_table(self, done: asyncio.Future[Any]) -> None:
        done.exception()  # a handshake that fails is nobody's error
        self._table.remove(self)


def server_config(
    app: ASGIApp,
    table: ConnectionTable[Any],
    *,
    tls: Callable[[], ssl.SSLContext] | None = None,
    trusted_proxies: str = "",
    **more: Any,
) -> uvicorn.Config:
    """Configure the HTTP server, which speaks TLS if `tls` returns the context for the next connection.

    `trusted_proxies` are addresses and networks, with commas, whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    """
    plain = type("ListenerProtocol", (BoundedProtocol,), {"table": table})

    def secure(**arguments: Any) -> TlsHandshake:
        assert tls is not None
        return TlsHandshake(table, tls(), plain(**arguments))

    return uvicorn.Config(
        app,
        http=secure if tls else plain,  # type: ignore[arg-type]  # it is called as a class is
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies,
        **more,
    )


async def close_overdue(table: ConnectionTable[Any]) -> None:
    """Close connections that have waited for too long, until cancelled."""
    while True:
        await asyncio.sleep(_CHECK_S)
        for each in table.overdue():
            each.transport.abort()
