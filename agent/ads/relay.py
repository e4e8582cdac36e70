"""The ADS relay between an Envoy and its control plane, on a socket in the state folder (docs/decisions/0009-the-agent-relays.md).

It relays all messages and records what Envoy accepted. While the control plane is unreachable it answers from the record, so that
a restarted Envoy gets its last configuration.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, TypeAlias

import grpc
import structlog

from agent.ads.config_record import AckTracker, ConfigRecord
from agent.ads.encrypted_store import EncryptedStore
from agent.ads.marked_forwarder import MarkedForwarder
from agent.ads.record_writer import RecordWriter
from agent.ads.removed_gateways import RemovedGateways
from agent.ads.upstream import METHOD, SERVICE, Call, Denied, Upstream, raise_if_denied
from agent.config import state_dir as files
from agent.config.identity import Enrolment
from agent.config.state_dir import StateDir
from model.entities import Role
from model.errors import ExitplaneError
from model.identity import Identity

log = structlog.get_logger()

READ_TIMEOUT_S: Final = 30.0
"""The time within which Envoy must read a response."""
_UNSERVED_S: Final = 5.0
"""A stream that ends sooner than this without a response counts as not served."""
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Envoy sends a keepalive ping every 10 s
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)

Context: TypeAlias = Any
"""grpc.aio.ServicerContext; grpcio ships no types."""


class SocketUnusable(ExitplaneError):
    code = "socket_unusable"


class _EnvoyDisconnected(Exception):
    """Envoy closed its stream."""


class _EnvoyStalled(Exception):
    """Envoy did not read a response within READ_TIMEOUT_S."""


class Relay:
    """Serves ADS to one Envoy between `start` and `stop`. Call `stop` after Envoy has ended.

    `marked` marks the packets to the control plane, for a kill switch that lets out no others.
    """

    def __init__(self, enrolment: Enrolment, folder: StateDir, *, marked: bool = False) -> None:
        self._folder = folder
        self._identity = Identity(enrolment.fleet_id, enrolment.role, enrolment.id)
        self._forwarder = MarkedForwarder(folder, enrolment.xds) if marked else None
        self._upstream = Upstream(enrolment, self._forwarder.target if self._forwarder else None)
        store = EncryptedStore(folder, enrolment.key_pem, enrolment.id)
        self._record = store.load()
        self._writer = RecordWriter(self._record, store)
        self._server = grpc.aio.server(options=_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        if enrolment.role is Role.EXIT:
            self._server.add_generic_rpc_handlers((RemovedGateways(self._record).handler,))

    @property
    def record(self) -> ConfigRecord:
        """The configuration that Envoy accepted."""
        return self._record

    def use(self, enrolment: Enrolment) -> None:
        """Open new streams to the control plane with another certificate. The one that is open goes on."""
        self._upstream.use(enrolment)

    async def start(self) -> None:
        """Listen. Raises SocketUnusable."""
        self._folder.remove(files.SOCKET)  # a killed agent leaves its socket behind
        self._bind()
        if self._forwarder is not None:
            await self._forwarder.start()
        await self._server.start()
        self._writer.start()

    async def stop(self) -> None:
        """Close every stream, and write the record if it changed."""
        await self._server.stop(None)
        await self._upstream.close()
        if self._forwarder is not None:
            await self._forwarder.stop()
        await self._writer.stop()
        self._folder.remove(files.SOCKET)

    def _bind(self) -> None:
        try:
            with self._folder.short_path(files.SOCKET) as path:
                self._server.add_insecure_port(f"unix:{path}")
            (self._folder.path / files.SOCKET).chmod(0o600)
        except (RuntimeError, OSError) as error:
            raise SocketUnusable(
                f"{self._folder.path / files.SOCKET} cannot be used as a socket ({error})",
                hint="name another folder with --state",
            ) from error

    # -- Envoy's streams

    async def _serve(self, _: Any, context: Context) -> None:
        try:
            call = await self._upstream.open_stream()
            if call is None:
                await self._serve_from_record(context)
            else:
                await self._relay(context, call)
        except Denied as denied:
            # a deregistered proxy must not be configured again from the record, by this agent or the next
            log.warning("ads.denied", code=denied.code.name, reason=denied.details)
            self._record.clear()
            await self._writer.flush()
            await context.abort(denied.code, denied.details)
        except _EnvoyStalled:
            # this blocks behind the unread response; the control plane's stream is already closed
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Envoy does not read its responses")
        except _EnvoyDisconnected:
            return

    async def _relay(self, context: Context, call: Call) -> None:
        """Relay messages until either side closes. Raises Denied, _EnvoyDisconnected and _EnvoyStalled."""
        tracker = AckTracker(self._record)
        begun_s = time.monotonic()
        served = asyncio.Event()
        upward = asyncio.create_task(self._relay_requests(context, call, tracker))
        downward = asyncio.create_task(self._relay_responses(context, call, tracker, served))
        try:
            await asyncio.wait({upward, downward}, return_when=asyncio.FIRST_COMPLETED)
            if upward.done():
                upward.result()
            await downward
        finally:
            call.cancel()
            await _cancel((upward, downward))
        await raise_if_denied(call)
        code, details = await call.code(), await call.details()
        if not served.is_set() and time.monotonic() - begun_s < _UNSERVED_S:
            self._upstream.mark_unreachable(f"{code.name}: {details}")
        if code is not grpc.StatusCode.OK:
            await context.abort(code, details)

    async def _relay_requests(self, context: Context, call: Call, tracker: AckTracker) -> None:
        """Relay Envoy's requests until the control plane closes. Raises _EnvoyDisconnected."""
        while (raw := await context.read()) is not grpc.aio.EOF:
            try:
                await call.write(tracker.track_request(raw))
            except (grpc.RpcError, asyncio.InvalidStateError):
                return
        raise _EnvoyDisconnected

    async def _relay_responses(self, context: Context, call: Call, tracker: AckTracker, served: asyncio.Event) -> None:
        """Relay the control plane's responses until it closes. Raises _EnvoyStalled."""
        with suppress(grpc.RpcError):
            while (raw := await call.read()) is not grpc.aio.EOF:
                served.set()
                self._upstream.mark_serving()
                tracker.track_response(raw)
                await _write(context, raw)

    # -- while the control plane is unreachable

    async def _serve_from_record(self, context: Context) -> None:
        """Answer from the record until the control plane is reachable; then the stream ends, and Envoy's next one is relayed.

        Without a record Envoy gets no answers and waits. Raises Denied, _EnvoyDisconnected and _EnvoyStalled.
        """
        # the import takes about 15 MB and a second, which an agent without outages saves
        await asyncio.to_thread(import_module, "agent.ads.offline_ads")
        from agent.ads.offline_ads import OfflineAds  # noqa: PLC0415 - imported above
        from xds.protocol.stream import Close, Send  # noqa: PLC0415 - as above

        types = self._record.types
        log.info("ads.from_record", resources={type_url: len(resources) for type_url, resources in types.items()})
        offline = OfflineAds(types, self._identity)
        reachable = asyncio.create_task(self._upstream.wait_until_reachable())
        reading = asyncio.ensure_future(context.read())
        try:
            while True:
                await asyncio.wait({reachable, reading}, return_when=asyncio.FIRST_COMPLETED)
                if reachable.done():
                    return reachable.result()
                raw = reading.result()
                if raw is grpc.aio.EOF:
                    raise _EnvoyDisconnected
                reading = asyncio.ensure_future(context.read())
                for action in offline.receive(raw, time.monotonic()):
                    match action:
                        case Send():
                            await _write(context, action.data)
                        case Close():
                            await context.abort(grpc.StatusCode[action.status], action.message)
        finally:
            await _cancel((reachable, reading))


async def _write(context: Context, raw: bytes) -> None:
    """Send a response and wait until Envoy reads it. Raises _EnvoyStalled."""
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            await context.write(raw)
    except TimeoutError as error:
        raise _EnvoyStalled from error


async def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
