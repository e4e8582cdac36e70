"""The gRPC shell around the protocol core: bytes in, bytes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

import grpc
import structlog

from model.identity import Identity, parse_uri
from xds.protocol.messages import Variant
from xds.protocol.stream import Action, Answered, Close, Send, Stream
from xds.server.publisher import Mailbox, Publisher
from xds.server.recorder import Recorder
from xds.translate import names

WRITE_TIMEOUT_S: Final = 30.0
"""How long a client may leave a response unread before its stream is cut."""
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

Context: TypeAlias = Any
"""grpc.aio.ServicerContext; grpcio ships no types."""
Handler = Callable[[Any, Context], Awaitable[None]]
log = structlog.get_logger()


class DiscoveryService:
    """Serves the streams of one replica. `shut_down` ends them in order."""

    def __init__(self, publisher: Publisher, recorder: Recorder, *, removal_grace_s: float) -> None:
        self._publisher = publisher
        self._recorder = recorder
        self._removal_grace_s = removal_grace_s
        self._closing = asyncio.Event()

    def handlers(self) -> Iterable[grpc.GenericRpcHandler]:
        """The handlers of all services; messages stay bytes on both sides. `Fetch*` is not served."""
        services: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
        for service, method, variant, only in _METHODS:
            handler = grpc.stream_stream_rpc_method_handler(self._handler(variant, only))
            services.setdefault(service, {})[method] = handler
        return [grpc.method_handlers_generic_handler(service, methods) for service, methods in services.items()]

    def shut_down(self) -> None:
        """End every stream with OK, so that its client looks for another replica at once."""
        self._closing.set()

    def _handler(self, variant: Variant, only: str | None) -> Handler:
        async def handle(_: Any, context: Context) -> None:
            await self._serve(variant, only, context)

        return handle

    async def _serve(self, variant: Variant, only: str | None, context: Context) -> None:
        identity = identify(context)
        if identity is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate names no proxy: enrol the agent anew")
        if self._publisher.world is None or self._closing.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the control plane is starting or ending")  # rule 9
        assert identity is not None
        box = self._publisher.open(identity)
        if box is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no such proxy: it was deregistered; enrol it anew")
        assert box is not None
        stream = Stream(variant, identity, box.view, only=only, removal_grace_s=self._removal_grace_s)
        log.info("xds.connected", node=str(identity.proxy_id), role=identity.role, variant=variant.value)
        try:
            await self._converse(stream, box, context)
        finally:
            self._publisher.close(box)
            log.info("xds.disconnected", node=str(identity.proxy_id))

    async def _converse(self, stream: Stream, box: Mailbox, context: Context) -> None:
        tasks = [asyncio.ensure_future(self._closing.wait()), asyncio.ensure_future(box.event.wait())]
        reading = asyncio.ensure_future(context.read())
        try:
            while not self._closing.is_set():
                waits_s = None if stream.wake_at is None else max(0.0, stream.wake_at - time.monotonic())
                await asyncio.wait([*tasks, reading], timeout=waits_s, return_when=asyncio.FIRST_COMPLETED)
                now = time.monotonic()
                if reading.done():
                    raw = reading.result()
                    if raw is grpc.aio.EOF:
                        return
                    reading = asyncio.ensure_future(context.read())
                    await self._act(stream.receive(raw, now), box, context)
                elif box.revoked:
                    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this proxy was deregistered")
                elif box.event.is_set():
                    tasks[1] = asyncio.ensure_future(box.event.wait())
                    view, changed = box.take()
                    await self._act(stream.publish(view, changed, now), box, context)
                else:
                    await self._act(stream.wake(now), box, context)
        finally:
            for task in [*tasks, reading]:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, reading, return_exceptions=True)

    async def _act(self, actions: Sequence[Action], box: Mailbox, context: Context) -> None:
        for action in actions:
            match action:
                case Send():
                    try:
                        await asyncio.wait_for(context.write(action.data), WRITE_TIMEOUT_S)
                    except TimeoutError:
                        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the client does not read its responses")
                case Answered():
                    self._recorder.record(box.identity, box.view, action)
                case Close():
                    await context.abort(grpc.StatusCode[action.status], action.message)


def identify(context: Context) -> Identity | None:
    """Who the client is, by the URI name in its certificate (decision 12)."""
    for name in context.auth_context().get("x509_subject_alternative_name", ()):
        with suppress(ValueError, UnicodeDecodeError):
            return parse_uri(name.decode())
    return None
