"""Between an Envoy and its control plane, over real sockets: what passes, what ends, and who answers when nobody else can."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
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
from agent.config.state_dir import StateDir
from agent.control.enrolment import Enrolment
from model.authority import KeyPair, issue_server, sign_request
from model.endpoint import Endpoint
from model.entities import Role
from model.identity import Identity
from tests.held_port import held_port
from xds.translate.names import CLUSTER, EXTENSION, LISTENER, SECRET
from xds.wire import discovery_pb2 as wire

PATIENCE_S = 60
FLEET, PROXY = UUID(int=1), UUID(int=2)
OK, AWAY = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
DENIED = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    for name, value in {
        "ads.upstream.PROBE_BASE_S": 0.02,
        "ads.upstream.PROBE_LIMIT_S": 0.1,
        "ads.record_writer.QUIET_S": 0.01,
        "ads.relay._EARLY_S": 10 * PATIENCE_S,
    }.items():
        monkeypatch.setattr(f"agent.{name}", value)


@pytest.fixture
def expect(monkeypatch):
    """`expect(serves=…, refuses=…)`: how long the relay waits for a connection, and for a refusal.

    As long as it takes for what is going to come, and not long for what is not: no answer depends on a quick machine.
    """

    def set_patience(*, serves: bool, refuses: bool) -> None:
        monkeypatch.setattr("agent.ads.upstream.PATIENCE_S", PATIENCE_S if serves else 0.05)
        monkeypatch.setattr("agent.ads.upstream.ACCEPTED_S", PATIENCE_S / 4 if refuses else 0.02)

    return set_patience


def certify(authority, identity: Identity) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    request = CertificateSigningRequestBuilder().subject_name(Name([])).sign(key, hashes.SHA256())
    csr = request.public_bytes(serialization.Encoding.PEM).decode()
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    certificate = sign_request(authority, csr, identity, datetime.now(UTC))
    return KeyPair(certificate, key.private_bytes(serialization.Encoding.PEM, form, plain).decode())


# -- the control plane -------------------------------------------------------------------------------------------------


class Session:
    """A stream as the control plane sees it."""

    def __init__(self, context) -> None:
        self.context = context
        self.heard: list[bytes] = []
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
            await self.context.abort(status, f"said by the control plane: {status.name}")

    async def _read(self) -> None:
        while (raw := await self.context.read()) is not grpc.aio.EOF:
            self.heard.append(raw)

    async def say(self, raw: bytes) -> None:
        await self.context.write(raw)

    def end(self, status) -> None:
        self.status.set_result(status)


class ControlPlane:
    """Does what the test says."""

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
        """With which every stream ends at once."""
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
    with state.held():
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
    """What is logged during the test."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def on_the_record(logs, until, envoy):
    """`await on_the_record()`: it was noticed that there is no control plane.

    A stream that was passed on to one that was just going ends, and Envoy comes again.
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
    """`await make_relay()`: a relay that runs."""
    made = []

    async def begin() -> Relay:
        relay = Relay(enrolment, folder)
        made.append(relay)
        await relay.start()
        return relay

    yield begin
    for relay in made:
        await relay.stop()


class Envoy:
    """One ADS stream after the other, through the socket in a folder.

    Each has a connection of its own: one to a relay that has stopped may be dead without its being known.
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
            node=wire.Node(id="n"),
        )
        await self._call.write(message.SerializeToString())
        return message.SerializeToString()

    async def hear(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self._call.read()

    def has_ended(self) -> bool:
        return self._call.done()

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """How its stream ends."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._call.code(), await self._call.details()

    async def given(self) -> dict[str, str]:
        """What the next response holds."""
        response = wire.DeltaDiscoveryResponse.FromString(await self.hear())
        return {resource.name: resource.version for resource in response.resources}

    def cancel(self) -> None:
        self._call.cancel()

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


@pytest.fixture
async def envoy(folder):
    standing_in = Envoy(folder)
    yield standing_in
    await standing_in.close()


def gives(nonce, type_url=CLUSTER, **resources) -> bytes:
    given = [
        wire.Resource(name=name, version=version, resource=AnyMessage(type_url=type_url, value=version.encode()))
        for name, version in resources.items()
    ]
    return wire.DeltaDiscoveryResponse(type_url=type_url, nonce=nonce, resources=given).SerializeToString()


@pytest.fixture
def pair(control_plane, envoy, until):
    """`await pair()`: a new stream of Envoy's, as the control plane sees it."""

    async def begin() -> Session:
        count = len(control_plane.sessions)
        envoy.open()
        await until(lambda: len(control_plane.sessions) > count)
        return control_plane.sessions[-1]

    return begin


@pytest.fixture
def accepted(pair, envoy, until, folder):
    """`await accepted()`: Envoy was given and accepted the cluster `a`, which the file says; the session."""

    async def begin() -> Session:
        session = await pair()
        await envoy.ask()
        await session.say(gives("1", a="v1"))
        await envoy.hear()
        await envoy.ask(nonce="1")
        await until((folder.path / "record.bin").exists)
        return session

    return begin


@pytest.fixture
def outage(control_plane, accepted, envoy):
    """`await outage()`: the control plane went away after `accepted`, and Envoy was told."""

    async def begin() -> None:
        await accepted()
        await control_plane.stop()
        assert (await envoy.end())[0] is not OK

    return begin


# -- while there is a control plane ------------------------------------------------------------------------------------


async def test_the_socket_is_its_owners_alone_and_goes_with_the_relay(make_relay, folder):
    relay = await make_relay()
    path = folder.path / "agent.sock"
    assert path.is_socket()
    assert path.stat().st_mode & 0o777 == 0o600

    await relay.stop()
    assert not path.exists()


async def test_a_socket_that_was_left_is_replaced(make_relay, pair, folder):
    (folder.path / "agent.sock").touch()
    await make_relay()

    await pair()


async def test_messages_pass_unchanged_both_ways(make_relay, pair, envoy, until):
    await make_relay()
    session = await pair()
    asked = [await envoy.ask(), await envoy.ask(nonce="1"), b"no request at all"]
    await envoy._call.write(asked[-1])
    said = [gives("1", a="v1"), b"no response at all", gives("2", LISTENER), b""]
    for raw in said:
        await session.say(raw)

    assert [await envoy.hear() for _ in said] == said
    await until(lambda: len(session.heard) == 3)
    assert session.heard == asked


async def test_a_response_larger_than_grpc_s_default_passes(make_relay, pair, envoy):
    await make_relay()
    session = await pair()
    large = gives("1", a="v" * 6_000_000)
    saying = asyncio.create_task(session.say(large))

    assert await envoy.hear() == large
    await saying


LARGE = gives("1", a="v" * 1_000_000)


async def say_for_ever(session: Session) -> None:
    """Send large responses as fast as they are taken, and count them among what was heard."""
    while True:
        await session.say(LARGE)
        session.heard.append(b"")


async def test_an_envoy_that_does_not_read_holds_up_the_control_plane(make_relay, pair, envoy, until):
    await make_relay()
    session = await pair()
    saying = asyncio.create_task(say_for_ever(session))
    # what all buffers on the way hold, the kernel's too; nothing piles up behind them
    await until(lambda: session.heard)
    count = -1
    while count != len(session.heard):
        count = len(session.heard)
        await asyncio.wait({saying}, timeout=0.5)
    assert count < 100
    assert await envoy.hear() == LARGE
    saying.cancel()
    envoy.cancel()


async def test_an_envoy_that_reads_nothing_keeps_no_stream(make_relay, pair, envoy, until, monkeypatch):
    monkeypatch.setattr("agent.ads.relay.READ_WITHIN_S", 0.2)
    await make_relay()
    session = await pair()
    saying = asyncio.create_task(say_for_ever(session))
    await until(lambda: session.ended)
    await asyncio.gather(saying, return_exceptions=True)
    envoy.cancel()


@pytest.mark.parametrize("status", [OK, AWAY, grpc.StatusCode.RESOURCE_EXHAUSTED, *DENIED])
async def test_a_stream_that_the_control_plane_ends_ends_likewise(make_relay, pair, envoy, status):
    await make_relay()
    session = await pair()
    await session.say(gives("1"))
    await envoy.hear()
    session.end(status)

    code, details = await envoy.end()
    assert code is status
    assert status is OK or details == f"said by the control plane: {status.name}"


async def test_a_stream_that_envoy_ends_ends_at_the_control_plane_too(make_relay, pair, envoy, until):
    await make_relay()
    session = await pair()
    envoy.cancel()

    await until(lambda: session.ended)


async def test_another_server_is_not_taken_for_the_control_plane(
    make_relay, control_plane, envoy, authority, on_the_record
):
    await control_plane.stop()
    control_plane.certificate = certify(authority, Identity(FLEET, Role.EXIT, UUID(int=9)))
    await control_plane.start(trusted=False)
    await make_relay()
    envoy.open()
    await on_the_record()

    assert control_plane.sessions == []


# -- while there is none -----------------------------------------------------------------------------------------------


async def test_a_new_envoy_is_given_what_the_last_one_accepted(make_relay, outage, envoy):
    await make_relay()
    await outage()
    envoy.open()
    await envoy.ask()

    assert await envoy.given() == {"a": "v1"}


async def test_also_by_the_next_agent(make_relay, outage, envoy):
    relay = await make_relay()
    await outage()
    await relay.stop()
    await make_relay()
    envoy.open()
    await envoy.ask()

    assert await envoy.given() == {"a": "v1"}


async def test_certificates_and_groups_too_and_no_private_key_is_in_a_file(
    make_relay, accepted, envoy, control_plane, folder, until
):
    relay = await make_relay()
    session = await accepted()
    key = "-----BEGIN PRIVATE KEY-----"
    for type_url, name, version in ((SECRET, "certificate", key), (EXTENSION, "groups", "v1")):
        await envoy.ask(type_url, name)
        await session.say(gives(name, type_url, **{name: version}))
        await envoy.hear()
        await envoy.ask(type_url, nonce=name)
    await until(lambda: len(session.heard) == 6)
    await control_plane.stop()
    assert (await envoy.end())[0] is not OK
    await relay.stop()
    assert not [path for path in folder.path.rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()]

    await make_relay()
    envoy.open()
    for type_url, name, version in ((SECRET, "certificate", key), (EXTENSION, "groups", "v1")):
        await envoy.ask(type_url, name)
        assert await envoy.given() == {name: version}


async def test_what_was_accepted_last_is_written_at_the_end(make_relay, accepted, envoy, folder, monkeypatch, until):
    relay = await make_relay()
    session = await accepted()
    before = (folder.path / "record.bin").read_bytes()
    monkeypatch.setattr("agent.ads.record_writer.QUIET_S", 300)
    await session.say(gives("2", a="v2"))
    await envoy.hear()
    await envoy.ask(nonce="2")
    await envoy.ask(LISTENER)
    await until(lambda: len(session.heard) == 4)
    assert (folder.path / "record.bin").read_bytes() == before

    await relay.stop()
    assert (folder.path / "record.bin").read_bytes() != before


async def test_an_envoy_that_holds_it_is_sent_nothing_and_handed_back(
    make_relay, outage, envoy, control_plane, until, on_the_record
):
    await make_relay()
    await outage()
    envoy.open()
    await envoy.ask(a="v1")
    await on_the_record()
    await control_plane.start()

    # no response came before the end
    assert await envoy.hear() is grpc.aio.EOF
    assert (await envoy.end())[0] is OK
    (_, session) = control_plane.sessions
    envoy.open()
    held = await envoy.ask(a="v1")
    await until(lambda: session.heard)
    # on the stream that the control plane took before Envoy was told
    assert len(control_plane.sessions) == 2
    assert session.heard == [held]


async def test_without_a_record_envoy_waits_and_is_handed_over(make_relay, control_plane, envoy, on_the_record):
    await control_plane.stop()
    await make_relay()
    envoy.open()
    await envoy.ask()
    await on_the_record()
    await control_plane.start()

    assert await envoy.hear() is grpc.aio.EOF
    assert (await envoy.end())[0] is OK


@pytest.mark.parametrize("status", [AWAY, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_a_control_plane_that_refuses_for_now_counts_as_away(
    make_relay, accepted, pair, control_plane, envoy, status
):
    await make_relay()
    session = await accepted()
    control_plane.refuses = status
    session.end(status)
    assert (await envoy.end())[0] is status
    # the next stream finds out, the one after is served
    await pair()
    assert (await envoy.end())[0] is status
    envoy.open()
    await envoy.ask()
    assert await envoy.given() == {"a": "v1"}

    control_plane.refuses = None
    assert await envoy.hear() is grpc.aio.EOF
    assert (await envoy.end())[0] is OK


async def test_an_outage_is_told_once_and_its_end(make_relay, outage, envoy, control_plane, logs):
    await make_relay()
    await outage()
    for _ in range(3):
        envoy.open()
        await envoy.ask()
        await envoy.given()
        envoy.cancel()
    envoy.open()
    await control_plane.start()
    await envoy.end()

    events = [entry["event"] for entry in logs if entry["event"] != "ads.from_record"]
    assert events == ["ads.away", "ads.back"]
    assert "v1" not in json.dumps(logs)


# -- while it does not want this proxy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", DENIED)
async def test_a_proxy_that_is_denied_is_told_and_given_nothing(
    make_relay, accepted, pair, control_plane, envoy, folder, status, on_the_record
):
    await make_relay()
    session = await accepted()
    control_plane.refuses = status
    session.end(status)
    assert (await envoy.end())[0] is status
    for _ in range(2):
        await pair()
        assert await envoy.end() == (status, f"said by the control plane: {status.name}")

    # nor later, when nobody can be asked
    assert not (folder.path / "record.bin").exists()
    await control_plane.stop()
    envoy.open()
    await envoy.ask()
    await on_the_record()
    control_plane.refuses = None
    await control_plane.start()
    assert await envoy.hear() is grpc.aio.EOF


@pytest.mark.parametrize("status", DENIED)
async def test_a_proxy_that_is_denied_when_the_control_plane_is_back_is_told(
    make_relay, outage, control_plane, envoy, folder, status
):
    await make_relay()
    await outage()
    envoy.open()
    await envoy.ask()
    await envoy.given()
    control_plane.refuses = status
    await control_plane.start()

    assert (await envoy.end())[0] is status
    assert not (folder.path / "record.bin").exists()


async def test_a_proxy_that_is_wanted_again_has_its_record_made_whole(
    make_relay, accepted, pair, control_plane, envoy, until, folder
):
    await make_relay()
    session = await accepted()
    session.end(DENIED[0])
    await envoy.end()
    session = await pair()
    await envoy.ask(a="v1")
    await until(lambda: session.heard)
    asked = wire.DeltaDiscoveryRequest.FromString(session.heard[0])
    assert dict(asked.initial_resource_versions) == {"a": ""}

    await session.say(gives("1", a="v1"))
    await envoy.hear()
    await envoy.ask(nonce="1")
    await until((folder.path / "record.bin").exists)
