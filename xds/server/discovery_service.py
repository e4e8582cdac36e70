"""The gRPC services of the xDS server: they admit clients, and run a stream handler for each stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import grpc
import structlog

from model.database import Database, DatabaseUnreachable
from model.identity import Identity, parse_uri
from model.repositories import declared, enrolment
from model.request_signature import thumbprint_of
from xds.protocol.messages import Variant
from xds.protocol.stream import Close, XdsStream
from xds.server.admission import Admission, ConnectionAge, Limits
from xds.server.connection_guard import ConnectionGuard
from xds.server.counters import XdsCounters
from xds.server.publisher import Publisher
from xds.server.recorder import AckRecorder
from xds.server.stream_handler import Context, StreamHandler
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
_TIMEOUT_CHECK_S: Final = 1.0
_CLIENT_ERRORS: Final = frozenset({"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"})
"""Statuses with which the protocol core ends a stream because of a bad request."""
log = structlog.get_logger()


class DiscoveryService:
    """Serves the streams of one replica until `shut_down` ends them."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        recorder: AckRecorder,
        limits: Limits,
        catch_up: Callable[[], Awaitable[None]],
        guard: ConnectionGuard,
        counters: XdsCounters | None = None,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._recorder = recorder
        self._limits = limits
        self._guard = guard
        self._counters = counters or XdsCounters()
        self._catch_up = catch_up
        """Waits until everything that was committed is published."""
        self._admission = Admission(limits.admissions_per_s, limits.admissions_burst, limits.penalty_s)
        self._age = ConnectionAge(limits.connection_age_s)
        self._streams: set[StreamHandler] = set()
        self._closing = False

    def handlers(self) -> Iterable[grpc.GenericRpcHandler]:
        """Return the handlers of all services. Messages stay bytes on both sides; the unary `Fetch*` methods are not served."""
        services: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
        for service, method, variant, only in _METHODS:
            handler = grpc.stream_stream_rpc_method_handler(self._handler(variant, only))
            services.setdefault(service, {})[method] = handler
        return [grpc.method_handlers_generic_handler(service, methods) for service, methods in services.items()]

    def shut_down(self) -> None:
        """End every stream with OK, so that its client looks for another replica at once."""
        self._closing = True
        for stream in [*self._streams]:
            stream.end("OK", "")

    async def enforce_timeouts(self) -> None:
        """End the streams of clients that do not read or do not answer, until cancelled."""
        while True:
            await asyncio.sleep(_TIMEOUT_CHECK_S)
            now = time.monotonic()
            for stream in [*self._streams]:
                self._enforce_timeouts_of(stream, now)

    def _enforce_timeouts_of(self, stream: StreamHandler, now: float) -> None:
        writing, unanswered = stream.writing_since, stream.protocol.unanswered_since
        if writing is not None and now - writing > self._limits.write_timeout_s:
            stream.end("DEADLINE_EXCEEDED", "the client does not read its responses")
        elif unanswered is not None and now - unanswered > self._limits.answer_timeout_s:
            stream.end("DEADLINE_EXCEEDED", "the client does not answer its responses")

    def _handler(self, variant: Variant, only: str | None) -> Handler:
        async def handle(_: Any, context: Context) -> None:
            close = await self._serve(variant, only, context)
            if close is not None and close.status != "OK":
                # queued behind a response that the client does not read, this waits for as long as the connection lasts
                with suppress(grpc.aio.InternalError):  # the client disconnected before it received the status
                    await context.abort(grpc.StatusCode[close.status], close.message)

        return handle

    async def _serve(self, variant: Variant, only: str | None, context: Context) -> Close | None:
        """Serve one stream to its end. Return the status for the call; None if the client ended it."""
        identity = identify(context)
        if identity is None:
            return self._refuse(
                "unauthenticated", "UNAUTHENTICATED", "the certificate names no proxy: enrol the agent again"
            )
        with self._guard.call_of(context.peer()):
            return await self._serve_client(identity, variant, only, context)

    async def _serve_client(
        self, identity: Identity, variant: Variant, only: str | None, context: Context
    ) -> Close | None:
        if self._publisher.world is None or self._closing:
            reason = "the control plane is starting or shutting down"
            return self._refuse("not_ready", "UNAVAILABLE", reason)  # rule 9
        if self._admission.is_blocked(identity.proxy_id, time.monotonic()):
            reason = "the last stream of this proxy sent a bad request: try again in a moment"
            return self._refuse("bad_request", "RESOURCE_EXHAUSTED", reason)
        if not self._admission.admit(time.monotonic()):
            return self._refuse("rate", "RESOURCE_EXHAUSTED", "too many streams at once: try again in a moment")
        if variant is Variant.SOTW:  # its first full state deletes what only another replica knows (rule 32)
            await self._catch_up()
            if self._closing:
                return self._refuse("not_ready", "UNAVAILABLE", "the control plane is shutting down")
        certificate = read_thumbprint(context)
        pending = self._publisher.open(identity, certificate)
        if pending is None:
            self._counters.refused["unknown_proxy"] += 1
            return await self._explain_unknown(identity, certificate)
        self._counters.admitted += 1
        protocol = XdsStream(
            variant,
            identity,
            pending.view,
            only=only,
            removal_grace_s=self._limits.removal_grace_s,
            former_clusters=self._publisher.former_clusters,
        )
        stream = StreamHandler(protocol, pending, context, self._publisher, self._recorder, self._counters)
        age_timer = self._start_age_timer(stream)
        self._streams.add(stream)
        log.info("xds.connected", node=str(identity.proxy_id), role=identity.role, variant=variant.value)
        try:
            close = await stream.run()
        finally:
            if age_timer is not None:
                age_timer.cancel()
            self._streams.discard(stream)
            self._publisher.close(pending)
            if not self._publisher.streams_of(identity.proxy_id):
                self._recorder.record_disconnected(identity.proxy_id)
            log.info("xds.disconnected", node=str(identity.proxy_id))
        if close is not None and pending.revoked:
            return await self._explain_unknown(identity, certificate)
        if close is not None and close.status in _CLIENT_ERRORS:
            log.warning("xds.stream_rejected", node=str(identity.proxy_id), status=close.status, reason=close.message)
            self._admission.block(identity.proxy_id, time.monotonic())
        return close

    def _refuse(self, reason: str, status: str, message: str) -> Close:
        """Count a refused stream by its reason, and return its status."""
        self._counters.refused[reason] += 1
        return Close(status, message)

    async def _explain_unknown(self, identity: Identity, certificate: str) -> Close:
        """Return the status for a proxy that the World does not have, or has with another certificate.

        Agents of a deregistered proxy erase their record, so only the database says that. The World may be older than the
        enrolment, and a restored database older than both.
        """
        try:
            async with self._database.session() as session:
                proxy = await declared.find_proxy(session, identity.proxy_id)
                if proxy is None and await enrolment.was_removed(session, identity.proxy_id):
                    return Close("PERMISSION_DENIED", "this proxy was deregistered; enrol it again")
        except DatabaseUnreachable:
            proxy = None
        known = self._publisher.world and self._publisher.world.proxies.get(identity.proxy_id)
        if known and certificate in known.replaced_certificates:
            return Close("PERMISSION_DENIED", "another registration took over the name of this proxy")
        if proxy is not None and (proxy.fleet_id, proxy.role) != (identity.fleet_id, identity.role):
            return Close("PERMISSION_DENIED", "the certificate is for another fleet or role; enrol the proxy again")
        return Close("UNAVAILABLE", "this proxy is not known here yet: try again in a moment")

    def _start_age_timer(self, stream: StreamHandler) -> asyncio.TimerHandle | None:
        """End a stream with OK when it reaches its age; None if streams do not age."""
        if self._limits.connection_age_s <= 0:
            return None
        loop = asyncio.get_running_loop()
        return loop.call_later(self._age.draw_stream_age_s(), stream.end, "OK", "the connection is old")


def identify(context: Context) -> Identity | None:
    """Return the identity in the URI name of the client's certificate (docs/architecture.md#identity-from-certificate)."""
    for name in context.auth_context().get("x509_subject_alternative_name", ()):
        with suppress(ValueError, UnicodeDecodeError):
            return parse_uri(name.decode())
    return None


def read_thumbprint(context: Context) -> str:
    """Return the thumbprint of the client's certificate; empty if gRPC shows none."""
    shown = context.auth_context().get("x509_pem_cert", ())
    return thumbprint_of(shown[0].decode()) if shown else ""
