"""A man in the middle of one proxy and its control plane, which ends the proxy's stream after a number of messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import cycle
from typing import Any

import grpc

from model.authority import CertificateAuthority, KeyPair, issue_server
from model.identity import XDS_SERVER_NAME

_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.ssl_target_name_override", XDS_SERVER_NAME),
    ("grpc.default_authority", XDS_SERVER_NAME),
    ("grpc.use_local_subchannel_pool", 1),
    # Envoy sends a keepalive ping every 10 s
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)


class StreamCutter:
    """Passes the messages of both directions on, each stream to the next replica, and counts them.

    It speaks TLS on both sides: as the control plane to the proxy, and with the proxy's certificate to the control plane.
    """

    def __init__(self, authority: CertificateAuthority, proxy: KeyPair, replicas: Sequence[int]) -> None:
        self.port = 0
        self.streams = 0
        """Streams opened so far."""
        self.messages = 0
        """Messages passed on since the last `cut_after`."""
        self.was_cut = False
        """True if the last `cut_after` has ended a stream."""
        self._authority = authority
        self._proxy = proxy
        self._replicas = replicas
        self._cut_after: int | None = None
        self._cut = asyncio.Event()

    def cut_after(self, messages: int | None) -> None:
        """End the stream once this many more messages have passed; None: let all pass."""
        self._cut_after, self.messages, self.was_cut = messages, 0, False

    @asynccontextmanager
    async def run(self) -> AsyncIterator[StreamCutter]:
        """Serve on a free port of loopback while the block lasts."""
        roots = self._authority.certificate_pem.encode()
        own = issue_server(self._authority, datetime.now(UTC))
        credentials = grpc.ssl_server_credentials(
            [(own.key_pem.encode(), own.certificate_pem.encode())], roots, require_client_auth=True
        )
        upward = grpc.ssl_channel_credentials(roots, self._proxy.key_pem.encode(), self._proxy.certificate_pem.encode())
        channels = [grpc.aio.secure_channel(f"127.0.0.1:{port}", upward, options=_OPTIONS) for port in self._replicas]
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((_AnyMethod(self, channels),))
        self.port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)
            for channel in channels:
                await channel.close()

    async def serve(self, call: Any, context: Any) -> None:
        """Pass the messages of a stream on until one side ends it, or it is cut."""
        self.streams += 1
        cut = self._cut = asyncio.Event()
        tasks = [
            asyncio.ensure_future(self._pass_on(context.read, call.write, cut)),
            asyncio.ensure_future(self._pass_on(call.read, context.write, cut)),
            asyncio.ensure_future(cut.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            call.cancel()
        if not context.done():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut" if cut.is_set() else "the replica ended the stream")

    async def _pass_on(self, read: Any, write: Any, cut: asyncio.Event) -> None:
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            while not cut.is_set() and (raw := await read()) is not grpc.aio.EOF:
                await write(raw)
                self.messages += 1
                if self.messages == self._cut_after:
                    self.was_cut = True
                    cut.set()


class _AnyMethod(grpc.GenericRpcHandler):
    """Handles every method with bytes, on a call to the next replica."""

    def __init__(self, cutter: StreamCutter, channels: Sequence[grpc.aio.Channel]) -> None:
        self._cutter = cutter
        self._channels = cycle(channels)

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        async def handle(_: Any, context: Any) -> None:
            await self._cutter.serve(next(self._channels).stream_stream(details.method)(), context)

        return grpc.stream_stream_rpc_method_handler(handle)
