"""The agent's client of the control plane's ADS server, authenticated by the proxy's certificate."""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeAlias

import grpc
import structlog

from agent.config.identity import Enrolment
from agent.config.status import wait
from agent.net.backoff import Backoff
from model.identity import XDS_SERVER_NAME

log = structlog.get_logger()

SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHOD: Final = "DeltaAggregatedResources"
CONNECT_TIMEOUT_S: Final = 1.0
"""The control plane counts as unreachable if connecting takes longer."""
REFUSAL_WINDOW_S: Final = 0.3
"""A stream counts as accepted if it is not refused for this long, because a server without news sends nothing."""
PROBE_BASE_S: Final = 0.2
PROBE_LIMIT_S: Final = 5.0
_DENIALS: Final = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})
_OPTIONS: Final = (
    ("grpc.ssl_target_name_override", XDS_SERVER_NAME),
    ("grpc.default_authority", XDS_SERVER_NAME),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # a peer that vanishes without closing is noticed within 15 s
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # reconnect quickly: `Upstream` paces its attempts itself
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
)

Call: TypeAlias = Any
"""grpc.aio.StreamStreamCall of bytes; grpcio ships no types."""


class Denied(Exception):
    """The control plane is reachable and refuses this proxy."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class _Channel:
    """A gRPC channel with one certificate. Once it is retired, it closes with its last stream."""

    def __init__(self, enrolment: Enrolment, target: str) -> None:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=enrolment.authority_pem.encode(),
            private_key=enrolment.key_pem.encode(),
            certificate_chain=enrolment.certificate_pem.encode(),
        )
        self._channel = grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
        self._start = self._channel.stream_stream(f"/{SERVICE}/{METHOD}")
        self._streams = 0
        self._retired = False
        self._closing: asyncio.Task[None] | None = None

    def start_stream(self) -> Call:
        call = self._start()
        self._streams += 1
        call.add_done_callback(self._note_end)
        return call

    async def connect(self) -> None:
        await self._channel.channel_ready()

    def retire(self) -> None:
        self._retired = True
        self._close_unused()

    async def close(self) -> None:
        await self._channel.close()

    def _note_end(self, _: Call) -> None:
        self._streams -= 1
        self._close_unused()

    def _close_unused(self) -> None:
        if self._retired and self._streams == 0 and self._closing is None:
            self._closing = asyncio.create_task(self._channel.close())


class Upstream:
    """Opens streams to the control plane, and tracks whether it is reachable. `target` replaces its address."""

    def __init__(self, enrolment: Enrolment, target: str | None = None) -> None:
        self._target = target or str(enrolment.xds)
        self._channel = _Channel(enrolment, self._target)
        self._former: list[_Channel] = []
        self._backoff = Backoff(PROBE_BASE_S, PROBE_LIMIT_S)
        self._unreachable = False
        self._ready_stream: Call | None = None
        """A stream that was accepted by `wait_until_reachable` and not used yet."""

    def use(self, enrolment: Enrolment) -> None:
        """Open new streams with another certificate. Those that are open go on."""
        self._former.append(self._channel)
        self._channel.retire()
        self._channel = _Channel(enrolment, self._target)

    async def open_stream(self) -> Call | None:
        """Open a stream; None if the control plane is unreachable."""
        ready, self._ready_stream = self._ready_stream, None
        if ready is not None and not ready.done():
            return ready
        if not self._unreachable and not await self._connect():
            self.mark_unreachable("it cannot be reached")
        return None if self._unreachable else self._channel.start_stream()

    async def wait_until_reachable(self) -> None:
        """Wait until the control plane accepts a stream, which the next `open_stream` returns. Raises Denied."""
        while True:
            await asyncio.sleep(self._backoff.next_s())
            if await self._connect() and (call := await self._try_stream()) is not None:
                self._drop_ready_stream()
                self._ready_stream, self._unreachable = call, False
                log.info("ads.back")
                return

    def mark_unreachable(self, reason: str) -> None:
        """Note that the control plane is unreachable, so that `open_stream` returns None at once."""
        if not self._unreachable:
            log.warning("ads.away", reason=reason)
        self._unreachable = True

    def mark_serving(self) -> None:
        """Note that the control plane answered, and reset the backoff."""
        self._backoff.reset()

    async def close(self) -> None:
        self._drop_ready_stream()
        for each in (*self._former, self._channel):
            await each.close()

    async def _connect(self) -> bool:
        """Connect, if not connected; return whether that worked in time."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._channel.connect()
        except TimeoutError:
            return False
        return True

    async def _try_stream(self) -> Call | None:
        """Open a stream; None if it is refused at once. Raises Denied."""
        call = self._channel.start_stream()
        ended = asyncio.Event()
        call.add_done_callback(lambda _: ended.set())
        try:
            if not await wait(ended, REFUSAL_WINDOW_S):
                return call
        except asyncio.CancelledError:
            call.cancel()
            raise
        await raise_if_denied(call)
        return None

    def _drop_ready_stream(self) -> None:
        if self._ready_stream is not None:
            self._ready_stream.cancel()
            self._ready_stream = None


async def raise_if_denied(call: Call) -> None:
    """Raise Denied if an ended stream was refused by PERMISSION_DENIED or UNAUTHENTICATED, which is not an outage."""
    code = await call.code()
    if code in _DENIALS:
        raise Denied(code, await call.details())
