"""The control plane's ADS server, as the agent dials it: with the proxy's own certificate, and known by its own name."""

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
PATIENCE_S: Final = 1.0
"""How long a connection may take before the control plane counts as away."""
ACCEPTED_S: Final = 0.3
"""A stream that was not refused for this long is taken: a server that has nothing to say says nothing."""
PROBE_BASE_S: Final = 0.2
PROBE_LIMIT_S: Final = 5.0
_DENIALS: Final = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})
_OPTIONS: Final = (
    ("grpc.ssl_target_name_override", XDS_SERVER_NAME),
    ("grpc.default_authority", XDS_SERVER_NAME),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # a peer that vanished without a word is noticed within 15 s
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # dialled again at once: how often is the business of whoever asks
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
    """The control plane is there and does not want this proxy."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class Upstream:
    """Opens streams to the control plane, and knows whether it is away. `target` is what is dialled instead of where it is."""

    def __init__(self, enrolment: Enrolment, target: str | None = None) -> None:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=enrolment.authority_pem.encode(),
            private_key=enrolment.key_pem.encode(),
            certificate_chain=enrolment.certificate_pem.encode(),
        )
        self._channel = grpc.aio.secure_channel(target or str(enrolment.xds), credentials, options=_OPTIONS)
        self._dial = self._channel.stream_stream(f"/{SERVICE}/{METHOD}")
        self._backoff = Backoff(PROBE_BASE_S, PROBE_LIMIT_S)
        self._away = False
        self._spare: Call | None = None
        """A stream that the control plane took while nobody needed it yet."""

    async def open(self) -> Call | None:
        """A stream; None when the control plane is away."""
        spare, self._spare = self._spare, None
        if spare is not None and not spare.done():
            return spare
        if not self._away and not await self._connected():
            self.note_away("it cannot be reached")
        return None if self._away else self._dial()

    async def wait_until_back(self) -> None:
        """Return once the control plane takes a stream again, which the next `open` gives. Raises Denied."""
        while True:
            await asyncio.sleep(self._backoff.next_s())
            if await self._connected() and (call := await self._taken()) is not None:
                self._drop_spare()
                self._spare, self._away = call, False
                log.info("ads.back")
                return

    def note_away(self, reason: str) -> None:
        """It cannot be had: do not wait for it until it was seen to be back."""
        if not self._away:
            log.warning("ads.away", reason=reason)
        self._away = True

    def note_good(self) -> None:
        """It serves."""
        self._backoff.reset()

    async def close(self) -> None:
        self._drop_spare()
        await self._channel.close()

    async def _connected(self) -> bool:
        """Whether there is a connection, or comes to be one in time."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._channel.channel_ready()
        except TimeoutError:
            return False
        return True

    async def _taken(self) -> Call | None:
        """A stream that was not refused at once. Raises Denied."""
        call = self._dial()
        ended = asyncio.Event()
        call.add_done_callback(lambda _: ended.set())
        try:
            if not await wait(ended, ACCEPTED_S):
                return call
        except asyncio.CancelledError:
            call.cancel()
            raise
        await raise_if_denied(call)
        return None

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.cancel()
            self._spare = None


async def raise_if_denied(call: Call) -> None:
    """Raises Denied when a stream that ended was refused for good: that is not an outage."""
    code = await call.code()
    if code in _DENIALS:
        raise Denied(code, await call.details())
