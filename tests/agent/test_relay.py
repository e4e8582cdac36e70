"""The relay over real sockets: relayed messages and statuses, outages, and denials."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import grpc
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import CertificateSigningRequestBuilder, Name
from google.protobuf.any_pb2 import Any as AnyMessage
from structlog.testing import capture_logs

from agent.ads.relay import Relay
from agent.ads.upstream import METHOD, SERVICE
from agent.config.identity import Enrolment
from agent.config.state_dir import StateDir
from model.authority import KeyPair, issue_server, sign_request
from model.endpoint import Endpoint
from model.entities import Role
from model.identity import Identity
from tests.held_port import held_port
from xds.translate.names import CLUSTER, EXTENSION, LISTENER, SECRET
from xds.wire import discovery_pb2 as wire

PATIENCE_S = 60
FLEET, PROXY = UUID(int=1), UUID(int=2)
OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
DENIED = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch):
    for name, value in {
        "ads.upstream.PROBE_BASE_S": 0.02,
        "ads.upstream.PROBE_LIMIT_S": 0.1,
        "ads.record_writer.QUIET_S": 0.01,
        "ads.relay._UNSERVED_S": 10 * PATIENCE_S,
    }.items():
        monkeypatch.setattr(f"agent.{name}", value)


@pytest.fixture
def expect(monkeypatch):
    """A function `expect(serves=…, refuses=…)` that sets how long the relay waits for a connection and for a refusal.

    It waits long for an expected event and briefly for others, so that no result depends on the machine's speed.
    """

    def set_timeouts(*, serves: bool, refuses: bool) -> None:
        monkeypatch.setattr("agent.ads.upstream.CONNECT_TIMEOUT_S", PATIENCE_S if serves else 0.05)
        monkeypatch.setattr("agent.ads.upstream.REFUSAL_WINDOW_S", PATIENCE_S / 4 if refuses else 0.02)

    return set_timeouts


def certify(authority, identity: Identity) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    request = CertificateSigningRequestBuilder().subject_name(Name([])).sign(key, hashes.SHA256())
    csr = request.public_bytes(serialization.Encoding.PEM).decode()
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    certificate = sign_request(authority, csr, identity, datetime.now(UTC))
    return KeyPair(certificate, key.private_bytes(serialization.Encoding.PEM, form, plain).decode())


# -- the control plane -------------------------------------------------------------------------------------------------


class Session:
    """The control plane's side of a stream."""

    def __init__(self, context) -> None:
        self.context = context
        self.received: list[bytes] = []
        self.ended = False
        self.status: asyncio.Future = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        reading = asyncio.create_task(self._read())
        try:
            status = await self.status
        finally:
            self.ended = True
            reading.cancel()
        if status is not OK:
            await self.context.abort(status, f"sent by the control plane: {status.name}")

    async def _read(self) -> None:
        while (raw := await self.context.read()) is not grpc.aio.EOF:
            self.received.append(raw)

    async def send(self, raw: bytes) -> None:
        await self.context.write(raw)

    def end(self, status) -> None:
        self.status.set_result(status)


class ControlPlane:
    """A control plane that the test directs."""

    def __init__(self, authority, port: int, expect) -> None:
        self.authority = authority
        self.certificate = issue_server(authority, datetime.now(UTC))
        self.port = port
        self.sessions: list[Session] = []
        self.server = None
        self._refuses: grpc.StatusCode | None = None
        self._expect = expect

    @property
    def refuses(self) -> grpc.StatusCode | None:
        """The status with which every stream ends at once."""
        return self._refuses

    @refuses.setter
    def refuses(self, status: grpc.StatusCode | None) -> None:
        self._refuses = status
        self._expect(serves=self.server is not None, refuses=status is not None)

    async def start(self, *, trusted: bool = True) -> None:
        pair = (self.certificate.key_pem.encode(), self.certificate.certificate_pem.encode())
        root = self.authority.certificate_pem.encode()
        credentials = grpc.ssl_server_credentials([pair], root_certificates=root, require_client_auth=True)
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 1), ("grpc.http2.max_ping_strikes", 0)])
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        self.server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self.server.start()
        self._expect(serves=trusted, refuses=self._refuses is not None)

    async def stop(self) -> None:
        if self.server is not None:
            server, self.server = self.server, None
            self._expect(serves=False, refuses=self._refuses is not None)
            await server.stop(None)

    async def _serve(self, _, context) -> None:
        session = Session(context)
        self.sessions.append(session)
        if self.refuses is not None:
            session.end(self.refuses)
        await session.run()


@pytest.fixture
async def control_plane(authority, expect):
    with held_port() as port:
        standing_in = ControlPlane(authority, port, expect)
        await standing_in.start()
        yield standing_in
        await standing_in.stop()


# -- the relay, and an Envoy -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    state = StateDir(tmp_path / "state")
    with state.locked():
        yield state


@pytest.fixture
def enrolment(authority, control_plane):
    own = certify(authority, Identity(FLEET, Role.GATEWAY, PROXY))
    return Enrolment(
        role=Role.GATEWAY,
        name="gw-1",
        id=PROXY,
        fleet_id=FLEET,
        key_pem=own.key_pem,
        certificate_pem=own.certificate_pem,
        authority_pem=authority.certificate_pem,
        xds=Endpoint("127.0.0.1", control_plane.port),
        interval_s=1,
    )


@pytest.fixture
def logs():
    """The log entries of the test."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def wait_for_outage(logs, until, envoy):
    """A function `await wait_for_outage()` that waits until the relay serves from the record.

    A stream that was relayed to a stopping control plane ends, and Envoy opens another.
    """

    async def is_noticed() -> bool:
        if envoy.has_ended():
            envoy.open()
            with suppress(grpc.RpcError, asyncio.InvalidStateError):
                await envoy.ask()
        return any(entry["event"] == "ads.from_record" for entry in logs)

    async def wait() -> None:
        await until(is_noticed)

    return wait


@pytest.fixture
async def make_relay(enrolment, folder):
    """A function `await make_relay()` that starts a relay."""
    made = []

    async def begin() -> Relay:
        relay = Relay(enrolment, folder)
        made.append(relay)
        await relay.start()
        return relay

    yield begin
    for relay in made:
        await relay.stop()


class StreamingEnvoy:
    """A client that opens ADS streams through the socket in a folder, one after the other.

    Each stream has its own connection, because one to a stopped relay may be dead without notice.
    """

    def __init__(self, folder: StateDir) -> None:
        self._target = f"unix:{folder.path / 'agent.sock'}"
        self._channels: list[grpc.aio.Channel] = []
        self._call = None

    def open(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self._channels.append(grpc.aio.insecure_channel(self._target, options=options))
        self._call = self._channels[-1].stream_stream(f"/{SERVICE}/{METHOD}")()

    async def ask(self, type_url=CLUSTER, *names, nonce="", **holds) -> bytes:
        message = wire.DeltaDiscoveryRequest(
            type_url=type_url,
            resource_names_subscribe=names,
            response_nonce=nonce,
            initial_resource_versions=holds,
            node=b"\x0a\x01n",
        )
        await self._call.write(message.SerializeToString())
        return message.SerializeToString()

    async def receive(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self._call.read()

    def has_ended(self) -> bool:
        return self._call.done()

    async def wait_until_closed(self) -> tuple[grpc.StatusCode, str]:
        """Wait for the end of the stream; return its status and details."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._call.code(), await self._call.details()

    async def read_versions(self) -> dict[str, str]:
        """Return the versions of the next response's resources by name."""
        response = wire.DeltaDiscoveryResponse.FromString(await self.receive())
        return {resource.name: resource.version for resource in response.resources}

    def cancel(self) -> None:
        self._call.cancel()

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


@pytest.fixture
async def envoy(folder):
    standing_in = StreamingEnvoy(folder)
    yield standing_in
    await standing_in.close()


def delta_response(nonce, type_url=CLUSTER, **resources) -> bytes:
    encoded = [
        wire.Resource(name=name, version=version, resource=AnyMessage(type_url=type_url, value=version.encode()))
        for name, version in resources.items()
    ]
    return wire.DeltaDiscoveryResponse(type_url=type_url, nonce=nonce, resources=encoded).SerializeToString()


@pytest.fixture
def pair(control_plane, envoy, until):
    """A function `await pair()` that opens a stream of Envoy's and returns the control plane's session."""

    async def begin() -> Session:
        count = len(control_plane.sessions)
        envoy.open()
        await until(lambda: len(control_plane.sessions) > count)
        return control_plane.sessions[-1]

    return begin


@pytest.fixture
def accepted(pair, envoy, until, folder):
    """A function `await accepted()` that lets Envoy accept the cluster `a`, waits for the file, and returns the session."""

    async def begin() -> Session:
        session = await pair()
        await envoy.ask()
        await session.send(delta_response("1", a="v1"))
        await envoy.receive()
        await envoy.ask(nonce="1")
        await until((folder.path / "record.bin").exists)
        return session

    return begin


@pytest.fixture
def outage(control_plane, accepted, envoy):
    """A function `await outage()` that stops the control plane after `accepted`."""

    async def begin() -> None:
        await accepted()
        await control_plane.stop()
        assert (await envoy.wait_until_closed())[0] is not OK

    return begin


# -- with a control plane ----------------------------------------------------------------------------------------------


async def test_relay_of_an_exit_receives_reports_of_open_requests(enrolment, folder):
    relay = Relay(replace(enrolment, role=Role.EXIT), folder)
    await relay.start()
    async with grpc.aio.insecure_channel(f"unix:{folder.path / 'agent.sock'}") as channel:
        report = channel.stream_unary("/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs")
        assert await report(iter([b""])) == b""
    await relay.stop()


async def test_socket_is_private_and_removed_at_stop(make_relay, folder):
    relay = await make_relay()
    path = folder.path / "agent.sock"
    assert path.is_socket()
    assert path.stat().st_mode & 0o777 == 0o600

    await relay.stop()
    assert not path.exists()


async def test_leftover_socket_is_replaced(make_relay, pair, folder):
    (folder.path / "agent.sock").touch()
    await make_relay()

    await pair()


async def test_messages_are_relayed_unchanged_both_ways(make_relay, pair, envoy, until):
    await make_relay()
    session = await pair()
    requests = [await envoy.ask(), await envoy.ask(nonce="1"), b"no request at all"]
    await envoy._call.write(requests[-1])
    sent = [delta_response("1", a="v1"), b"no response at all", delta_response("2", LISTENER), b""]
    for raw in sent:
        await session.send(raw)

    assert [await envoy.receive() for _ in sent] == sent
    await until(lambda: len(session.received) == 3)
    assert session.received == requests


async def test_response_larger_than_grpc_default_is_relayed(make_relay, pair, envoy):
    await make_relay()
    session = await pair()
    large = delta_response("1", a="v" * 6_000_000)
    sending = asyncio.create_task(session.send(large))

    assert await envoy.receive() == large
    await sending


LARGE = delta_response("1", a="v" * 1_000_000)


async def send_forever(session: Session) -> None:
    """Send large responses as fast as they are read, and count them in `received`."""
    while True:
        await session.send(LARGE)
        session.received.append(b"")


async def test_envoy_that_does_not_read_blocks_control_plane(make_relay, pair, envoy, until):
    await make_relay()
    session = await pair()
    sending = asyncio.create_task(send_forever(session))
    # the buffers on the way, the kernel's included, fill up, and nothing accumulates behind them
    await until(lambda: session.received)
    count = -1
    while count != len(session.received):
        count = len(session.received)
        await asyncio.wait({sending}, timeout=0.5)
    assert count < 100
    assert await envoy.receive() == LARGE
    sending.cancel()
    envoy.cancel()


async def test_stream_of_envoy_that_never_reads_is_closed(make_relay, pair, envoy, until, monkeypatch):
    monkeypatch.setattr("agent.ads.relay.READ_TIMEOUT_S", 0.2)
    await make_relay()
    session = await pair()
    sending = asyncio.create_task(send_forever(session))
    await until(lambda: session.ended)
    await asyncio.gather(sending, return_exceptions=True)
    envoy.cancel()


@pytest.mark.parametrize("status", [OK, UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, *DENIED])
async def test_stream_ends_with_status_of_control_plane(make_relay, pair, envoy, status):
    await make_relay()
    session = await pair()
    await session.send(delta_response("1"))
    await envoy.receive()
    session.end(status)

    code, details = await envoy.wait_until_closed()
    assert code is status
    assert status is OK or details == f"sent by the control plane: {status.name}"


async def test_stream_closed_by_envoy_closes_upstream(make_relay, pair, envoy, until):
    await make_relay()
    session = await pair()
    envoy.cancel()

    await until(lambda: session.ended)


async def test_server_with_proxy_certificate_is_not_used(make_relay, control_plane, envoy, authority, wait_for_outage):
    await control_plane.stop()
    control_plane.certificate = certify(authority, Identity(FLEET, Role.EXIT, UUID(int=9)))
    await control_plane.start(trusted=False)
    await make_relay()
    envoy.open()
    await wait_for_outage()

    assert control_plane.sessions == []


# -- without a control plane -------------------------------------------------------------------------------------------


async def test_new_envoy_gets_recorded_configuration(make_relay, outage, envoy):
    await make_relay()
    await outage()
    envoy.open()
    await envoy.ask()

    assert await envoy.read_versions() == {"a": "v1"}


async def test_next_agent_serves_recorded_configuration(make_relay, outage, envoy):
    relay = await make_relay()
    await outage()
    await relay.stop()
    await make_relay()
    envoy.open()
    await envoy.ask()

    assert await envoy.read_versions() == {"a": "v1"}


async def test_secrets_are_recorded_and_encrypted(make_relay, accepted, envoy, control_plane, folder, until):
    relay = await make_relay()
    session = await accepted()
    key = "-----BEGIN PRIVATE KEY-----"
    for type_url, name, version in ((SECRET, "certificate", key), (EXTENSION, "groups", "v1")):
        await envoy.ask(type_url, name)
        await session.send(delta_response(name, type_url, **{name: version}))
        await envoy.receive()
        await envoy.ask(type_url, nonce=name)
    await until(lambda: len(session.received) == 6)
    await control_plane.stop()
    assert (await envoy.wait_until_closed())[0] is not OK
    await relay.stop()
    assert not [path for path in folder.path.rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()]

    await make_relay()
    envoy.open()
    for type_url, name, version in ((SECRET, "certificate", key), (EXTENSION, "groups", "v1")):
        await envoy.ask(type_url, name)
        assert await envoy.read_versions() == {name: version}


async def test_last_ack_is_written_at_stop(make_relay, accepted, envoy, folder, monkeypatch, until):
    relay = await make_relay()
    session = await accepted()
    before = (folder.path / "record.bin").read_bytes()
    monkeypatch.setattr("agent.ads.record_writer.QUIET_S", 300)
    await session.send(delta_response("2", a="v2"))
    await envoy.receive()
    await envoy.ask(nonce="2")
    await envoy.ask(LISTENER)
    await until(lambda: len(session.received) == 4)
    assert (folder.path / "record.bin").read_bytes() == before

    await relay.stop()
    assert (folder.path / "record.bin").read_bytes() != before


async def test_envoy_that_holds_record_waits_and_is_relayed_again(
    make_relay, outage, envoy, control_plane, until, wait_for_outage
):
    await make_relay()
    await outage()
    envoy.open()
    await envoy.ask(a="v1")
    await wait_for_outage()
    await control_plane.start()

    # no response arrives before the end
    assert await envoy.receive() is grpc.aio.EOF
    assert (await envoy.wait_until_closed())[0] is OK
    (_, session) = control_plane.sessions
    envoy.open()
    held = await envoy.ask(a="v1")
    await until(lambda: session.received)
    # the relay uses the stream that it opened before it closed Envoy's
    assert len(control_plane.sessions) == 2
    assert session.received == [held]


async def test_envoy_waits_without_record_until_control_plane_is_up(make_relay, control_plane, envoy, wait_for_outage):
    await control_plane.stop()
    await make_relay()
    envoy.open()
    await envoy.ask()
    await wait_for_outage()
    await control_plane.start()

    assert await envoy.receive() is grpc.aio.EOF
    assert (await envoy.wait_until_closed())[0] is OK


@pytest.mark.parametrize("status", [UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_temporary_refusal_counts_as_outage(make_relay, accepted, pair, control_plane, envoy, status):
    await make_relay()
    session = await accepted()
    control_plane.refuses = status
    session.end(status)
    assert (await envoy.wait_until_closed())[0] is status
    # the next stream detects the outage, and the one after is served from the record
    await pair()
    assert (await envoy.wait_until_closed())[0] is status
    envoy.open()
    await envoy.ask()
    assert await envoy.read_versions() == {"a": "v1"}

    control_plane.refuses = None
    assert await envoy.receive() is grpc.aio.EOF
    assert (await envoy.wait_until_closed())[0] is OK


async def test_outage_and_its_end_are_logged_once(make_relay, outage, envoy, control_plane, logs):
    await make_relay()
    await outage()
    for _ in range(3):
        envoy.open()
        await envoy.ask()
        await envoy.read_versions()
        envoy.cancel()
    envoy.open()
    await control_plane.start()
    await envoy.wait_until_closed()

    events = [entry["event"] for entry in logs if entry["event"] != "ads.from_record"]
    assert events == ["ads.away", "ads.back"]
    assert "v1" not in json.dumps(logs)


# -- while the proxy is denied -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", DENIED)
async def test_denied_proxy_gets_status_and_no_configuration(
    make_relay, accepted, pair, control_plane, envoy, folder, status, wait_for_outage
):
    await make_relay()
    session = await accepted()
    control_plane.refuses = status
    session.end(status)
    assert (await envoy.wait_until_closed())[0] is status
    for _ in range(2):
        await pair()
        assert await envoy.wait_until_closed() == (status, f"sent by the control plane: {status.name}")

    # also later, when the control plane is down
    assert not (folder.path / "record.bin").exists()
    await control_plane.stop()
    envoy.open()
    await envoy.ask()
    await wait_for_outage()
    control_plane.refuses = None
    await control_plane.start()
    assert await envoy.receive() is grpc.aio.EOF


@pytest.mark.parametrize("status", DENIED)
async def test_denial_after_outage_is_relayed(make_relay, outage, control_plane, envoy, folder, status):
    await make_relay()
    await outage()
    envoy.open()
    await envoy.ask()
    await envoy.read_versions()
    control_plane.refuses = status
    await control_plane.start()

    assert (await envoy.wait_until_closed())[0] is status
    assert not (folder.path / "record.bin").exists()


async def test_readmitted_proxy_gets_complete_record_again(
    make_relay, accepted, pair, control_plane, envoy, until, folder
):
    await make_relay()
    session = await accepted()
    session.end(DENIED[0])
    await envoy.wait_until_closed()
    session = await pair()
    await envoy.ask(a="v1")
    await until(lambda: session.received)
    asked = wire.DeltaDiscoveryRequest.FromString(session.received[0])
    assert dict(asked.initial_resource_versions) == {"a": ""}

    await session.send(delta_response("1", a="v1"))
    await envoy.receive()
    await envoy.ask(nonce="1")
    await until((folder.path / "record.bin").exists)
