"""The gRPC shell around the protocol core: bytes in, bytes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import grpc
import structlog

from model.identity import Identity, parse_uri
from xds.protocol.messages import Variant
from xds.protocol.stream import Close, XdsStream
from xds.server.admission import Admission, ConnectionAge, Limits
from xds.server.publisher import Publisher
from xds.server.recorder import AckRecorder
from xds.server.stream_handler import Context, Poke, StreamHandler
from xds.translate import names

_DISCOVERY: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_SCOPED: Final = "envoy.service.route.v3.ScopedRoutesDiscoveryService"
_EXTENSIONS: Final = "envoy.service.extension.v3.ExtensionConfigDiscoveryService"
_METHODS: Final[Sequence[tuple[str, str, Variant, str | None]]] = (
    # service, method, variant, the one type of a per-type service
    (_DISCOVERY, "StreamAggregatedResources", Variant.SOTW, None),
    (_DISCOVERY, "DeltaAggregatedResources", Variant.DELTA, None),
    ("envoy.service.cluster.v3.ClusterDiscoveryService", "StreamClusters", Variant.SOTW, names.CLUSTER),
    ("envoy.service.cluster.v3.ClusterDiscoveryService", "DeltaClusters", Variant.DELTA, names.CLUSTER),
    ("envoy.service.endpoint.v3.EndpointDiscoveryService", "StreamEndpoints", Variant.SOTW, names.ENDPOINT),
    ("envoy.service.endpoint.v3.EndpointDiscoveryService", "DeltaEndpoints", Variant.DELTA, names.ENDPOINT),
    ("envoy.service.listener.v3.ListenerDiscoveryService", "StreamListeners", Variant.SOTW, names.LISTENER),
    ("envoy.service.listener.v3.ListenerDiscoveryService", "DeltaListeners", Variant.DELTA, names.LISTENER),
    ("envoy.service.route.v3.RouteDiscoveryService", "StreamRoutes", Variant.SOTW, names.ROUTE),
    ("envoy.service.route.v3.RouteDiscoveryService", "DeltaRoutes", Variant.DELTA, names.ROUTE),
    (_SCOPED, "StreamScopedRoutes", Variant.SOTW, names.SCOPED_ROUTE),
    (_SCOPED, "DeltaScopedRoutes", Variant.DELTA, names.SCOPED_ROUTE),
    ("envoy.service.secret.v3.SecretDiscoveryService", "StreamSecrets", Variant.SOTW, names.SECRET),
    ("envoy.service.secret.v3.SecretDiscoveryService", "DeltaSecrets", Variant.DELTA, names.SECRET),
    (_EXTENSIONS, "StreamExtensionConfigs", Variant.SOTW, names.EXTENSION),
    (_EXTENSIONS, "DeltaExtensionConfigs", Variant.DELTA, names.EXTENSION),
)

Handler = Callable[[Any, Context], Awaitable[None]]
_LOOK_EVERY_S: Final = 1.0
_FAULTS: Final = frozenset({"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"})
"""With what the protocol core ends a stream for what it was sent."""
log = structlog.get_logger()


class DiscoveryService:
    """Serves the streams of one replica. `shut_down` ends them in order."""

    def __init__(self, publisher: Publisher, recorder: AckRecorder, limits: Limits, poke: Poke) -> None:
        self._publisher = publisher
        self._recorder = recorder
        self._limits = limits
        self._poke = poke
        self._admission = Admission(limits.admissions_per_s, limits.admissions_burst, limits.penalty_s)
        self._age = ConnectionAge(limits.connection_age_s)
        self._conversations: set[StreamHandler] = set()
        self._closing = False

    def handlers(self) -> Iterable[grpc.GenericRpcHandler]:
        """The handlers of all services; messages stay bytes on both sides. `Fetch*` is not served."""
        services: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
        for service, method, variant, only in _METHODS:
            handler = grpc.stream_stream_rpc_method_handler(self._handler(variant, only))
            services.setdefault(service, {})[method] = handler
        return [grpc.method_handlers_generic_handler(service, methods) for service, methods in services.items()]

    def shut_down(self) -> None:
        """End every stream with OK, so that its client looks for another replica at once."""
        self._closing = True
        for conversation in [*self._conversations]:
            conversation.end("OK", "")

    async def look_after(self) -> None:
        """Cut off clients that do not read or do not answer, until cancelled: what they hold up is theirs alone."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = time.monotonic()
            for conversation in [*self._conversations]:
                self._look_at(conversation, now)

    def _look_at(self, conversation: StreamHandler, now: float) -> None:
        writing, waiting = conversation.writing_since, conversation.stream.waiting_since
        if writing is not None and now - writing > self._limits.write_timeout_s:
            conversation.end("DEADLINE_EXCEEDED", "the client does not read its responses")
        elif waiting is not None and now - waiting > self._limits.answer_timeout_s:
            conversation.end("DEADLINE_EXCEEDED", "the client does not answer its responses")

    def _handler(self, variant: Variant, only: str | None) -> Handler:
        async def handle(_: Any, context: Context) -> None:
            await self._serve(variant, only, context)

        return handle

    async def _serve(self, variant: Variant, only: str | None, context: Context) -> None:
        ending = await self._converse(variant, only, context)
        if ending is not None and ending.status != "OK":
            # behind a response that the client does not read, this waits for as long as the connection lasts
            with suppress(grpc.aio.InternalError):  # the client went without having heard it
                await context.abort(grpc.StatusCode[ending.status], ending.message)

    async def _converse(self, variant: Variant, only: str | None, context: Context) -> Close | None:
        """Serve one stream, and forget it; gives with what status to end the call."""
        identity = identify(context)
        if identity is None:
            return Close("UNAUTHENTICATED", "the certificate names no proxy: enrol the agent anew")
        if self._publisher.world is None or self._closing:
            return Close("UNAVAILABLE", "the control plane is starting or ending")  # rule 9
        if self._admission.is_out(identity.proxy_id, time.monotonic()):
            return Close("RESOURCE_EXHAUSTED", "what this proxy sent last was refused: it may come back in a moment")
        if not self._admission.admits(time.monotonic()):
            return Close("RESOURCE_EXHAUSTED", "too many streams at once: try again in a moment")
        box = self._publisher.open(identity)
        if box is None:
            return Close("PERMISSION_DENIED", "no such proxy: it was deregistered; enrol it anew")
        stream = XdsStream(variant, identity, box.view, only=only, removal_grace_s=self._limits.removal_grace_s)
        conversation = StreamHandler(stream, box, context, self._publisher, self._recorder, self._poke)
        retiring = self._retire_later(conversation)
        self._conversations.add(conversation)
        log.info("xds.connected", node=str(identity.proxy_id), role=identity.role, variant=variant.value)
        try:
            ending = await conversation.run()
        finally:
            if retiring is not None:
                retiring.cancel()
            self._conversations.discard(conversation)
            self._publisher.close(box)
            if not self._publisher.connected(identity.proxy_id):
                self._recorder.gone(identity.proxy_id)
            log.info("xds.disconnected", node=str(identity.proxy_id))
        if ending is not None and ending.status in _FAULTS:
            log.warning("xds.refused", node=str(identity.proxy_id), status=ending.status, reason=ending.message)
            self._admission.punish(identity.proxy_id, time.monotonic())
        return ending

    def _retire_later(self, conversation: StreamHandler) -> asyncio.TimerHandle | None:
        if self._limits.connection_age_s <= 0:
            return None
        loop = asyncio.get_running_loop()
        return loop.call_later(self._age.of_stream(), conversation.end, "OK", "the connection is old")


def identify(context: Context) -> Identity | None:
    """Who the client is, by the URI name in its certificate (docs/architecture.md#identity-from-certificate)."""
    for name in context.auth_context().get("x509_subject_alternative_name", ()):
        with suppress(ValueError, UnicodeDecodeError):
            return parse_uri(name.decode())
    return None
