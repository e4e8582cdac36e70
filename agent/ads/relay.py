"""What stands between an Envoy and its control plane, on a socket in the state folder (docs/decisions/0009-the-agent-relays.md).

It passes on what both say, and remembers what Envoy accepted. While the control plane is away it answers from that, so that
an Envoy that starts then comes up with what the last one had.
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
from agent.ads.upstream import METHOD, SERVICE, Call, Denied, Upstream, raise_if_denied
from agent.config import state_dir as files
from agent.config.identity import Enrolment
from agent.config.state_dir import StateDir
from model.errors import ExitplaneError
from model.identity import Identity

log = structlog.get_logger()

READ_WITHIN_S: Final = 30.0
"""How long Envoy may leave a response unread."""
_EARLY_S: Final = 5.0
"""A stream that ended without a word after less than this was not served."""
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Envoy asks every 10 s whether anybody is there
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)

Context: TypeAlias = Any
"""grpc.aio.ServicerContext; grpcio ships no types."""


class SocketUnusable(ExitplaneError):
    code = "socket_unusable"


class _EnvoyLeft(Exception):
    """Envoy ended its stream."""


class _EnvoyStuck(Exception):
    """Envoy left a response unread for READ_WITHIN_S."""


class Relay:
    """Serves one Envoy's ADS from `start` to `stop`, which must come after Envoy's own end.

    `marked` is whether there is a kill switch, which lets only marked packets out.
    """

    def __init__(self, enrolment: Enrolment, folder: StateDir, *, marked: bool = False) -> None:
        self._folder = folder
        self._identity = Identity(enrolment.fleet_id, enrolment.role, enrolment.id)
        self._passage = MarkedForwarder(folder, enrolment.xds) if marked else None
        self._upstream = Upstream(enrolment, self._passage.target if self._passage else None)
        vault = EncryptedStore(folder, enrolment.key_pem, enrolment.id)
        self._record = vault.load()
        self._writer = RecordWriter(self._record, vault)
        self._server = grpc.aio.server(options=_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))

    @property
    def record(self) -> ConfigRecord:
        """What its Envoy was given and accepted."""
        return self._record

    async def start(self) -> None:
        """Listen. Raises SocketUnusable."""
        self._folder.remove(files.SOCKET)  # one that a killed agent left
        self._bind()
        if self._passage is not None:
            await self._passage.start()
        await self._server.start()
        self._writer.start()

    async def stop(self) -> None:
        """End every stream and write what was not written yet."""
        await self._server.stop(None)
        await self._upstream.close()
        if self._passage is not None:
            await self._passage.stop()
        await self._writer.stop()
        self._folder.remove(files.SOCKET)

    def _bind(self) -> None:
        try:
            with self._folder.short_path(files.SOCKET) as path:
                self._server.add_insecure_port(f"unix:{path}")
            (self._folder.path / files.SOCKET).chmod(0o600)
        except (RuntimeError, OSError) as error:
            raise SocketUnusable(
                f"{self._folder.path / files.SOCKET} cannot be listened on ({error})",
                hint="name another folder with --state",
            ) from error

    # -- a stream of Envoy's

    async def _serve(self, _: Any, context: Context) -> None:
        try:
            call = await self._upstream.open()
            if call is None:
                await self._answer(context)
            else:
                await self._pair(context, call)
        except Denied as denied:
            # whoever was deregistered is not kept alive, by this agent or the next
            log.warning("ads.denied", code=denied.code.name, reason=denied.details)
            self._record.clear()
            await self._writer.flush()
            await context.abort(denied.code, denied.details)
        except _EnvoyStuck:
            # the status waits behind what is not read, so the control plane's stream has ended before this
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Envoy does not read its responses")
        except _EnvoyLeft:
            return

    async def _pair(self, context: Context, call: Call) -> None:
        """Pass on what either side says until one ends. Raises Denied, _EnvoyLeft and _EnvoyStuck."""
        witness = AckTracker(self._record)
        begun_s = time.monotonic()
        served = asyncio.Event()
        up = asyncio.create_task(self._pass_requests(context, call, witness))
        down = asyncio.create_task(self._pass_responses(context, call, witness, served))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if up.done():
                up.result()
            await down
        finally:
            call.cancel()
            await _cancel((up, down))
        await raise_if_denied(call)
        code, details = await call.code(), await call.details()
        if not served.is_set() and time.monotonic() - begun_s < _EARLY_S:
            self._upstream.note_away(f"{code.name}: {details}")
        if code is not grpc.StatusCode.OK:
            await context.abort(code, details)

    async def _pass_requests(self, context: Context, call: Call, witness: AckTracker) -> None:
        """Until the control plane takes no more. Raises _EnvoyLeft."""
        while (raw := await context.read()) is not grpc.aio.EOF:
            try:
                await call.write(witness.request(raw))
            except (grpc.RpcError, asyncio.InvalidStateError):
                return
        raise _EnvoyLeft

    async def _pass_responses(self, context: Context, call: Call, witness: AckTracker, served: asyncio.Event) -> None:
        """Until the control plane has nothing more to say. Raises _EnvoyStuck."""
        with suppress(grpc.RpcError):
            while (raw := await call.read()) is not grpc.aio.EOF:
                served.set()
                self._upstream.note_good()
                witness.response(raw)
                await _write(context, raw)

    # -- while the control plane is away

    async def _answer(self, context: Context) -> None:
        """Serve what the last Envoy accepted, until the control plane is back. Raises Denied, _EnvoyLeft and _EnvoyStuck.

        Then the stream ends, and Envoy's next one is relayed. Without a record Envoy is told nothing, and waits likewise.
        """
        # some 15 MB and a second of work that an agent does without until now
        await asyncio.to_thread(import_module, "agent.ads.offline_ads")
        from agent.ads.offline_ads import OfflineAds  # noqa: PLC0415 - it was just imported
        from xds.protocol.stream import Close, Send  # noqa: PLC0415 - likewise

        types = self._record.types
        log.info("ads.from_record", resources={type_url: len(kept) for type_url, kept in types.items()})
        fallback = OfflineAds(types, self._identity)
        back = asyncio.create_task(self._upstream.wait_until_back())
        reading = asyncio.ensure_future(context.read())
        try:
            while True:
                await asyncio.wait({back, reading}, return_when=asyncio.FIRST_COMPLETED)
                if back.done():
                    return back.result()
                raw = reading.result()
                if raw is grpc.aio.EOF:
                    raise _EnvoyLeft
                reading = asyncio.ensure_future(context.read())
                for action in fallback.receive(raw, time.monotonic()):
                    match action:
                        case Send():
                            await _write(context, action.data)
                        case Close():
                            await context.abort(grpc.StatusCode[action.status], action.message)
        finally:
            await _cancel((back, reading))


async def _write(context: Context, raw: bytes) -> None:
    """Send a response, as soon as Envoy takes it. Raises _EnvoyStuck."""
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            await context.write(raw)
    except TimeoutError as error:
        raise _EnvoyStuck from error


async def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
