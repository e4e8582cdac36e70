"""Fixtures: the xDS server of a replica in this process, and clients that behave as Envoy does, over mutual TLS."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
import structlog
import structlog.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy_data_plane.envoy.config.core.v3 import Node

from model.authority import CertificateAuthority, KeyPair, create_authority, sign_request
from model.current_authority import CurrentAuthority
from model.database import Database
from model.entities import Role
from model.exit_states import ExitState
from model.identity import XDS_SERVER_NAME, Identity
from model.repositories import declared, sync
from model.tables import ExitRow, FleetRow, ListenerRow, PoolRow, ProxyRow
from model.unit_of_work import UnitOfWork, write
from xds.server.admission import Limits
from xds.server.discovery_service import DiscoveryService
from xds.server.server import XdsServer, run_server
from xds.translate import names
from xds.wire.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Status,
)

SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService"
DELTA = f"{SERVICE}/DeltaAggregatedResources"
SOTW = f"{SERVICE}/StreamAggregatedResources"
BOUND_S = 60.0
AT = datetime(2026, 1, 1, tzinfo=UTC)


# -- certificates ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    return create_authority(datetime.now(UTC))


def certify(authority: CertificateAuthority, identity: Identity) -> KeyPair:
    """Make a key, and have the authority sign a certificate for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    pem = csr.public_bytes(serialization.Encoding.PEM).decode()
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return KeyPair(sign_request(authority, pem, identity, datetime.now(UTC)), key_pem)


@pytest.fixture
def certified(tmp_path: Path) -> Callable[[ssl.SSLContext, Identity, CertificateAuthority], None]:
    """`certified(context, identity, authority)` loads a certificate into an SSL context of Python."""

    def give(context: ssl.SSLContext, identity: Identity, signed_by: CertificateAuthority) -> None:
        pair = certify(signed_by, identity)
        (tmp_path / "pair.pem").write_text(pair.certificate_pem + pair.key_pem)
        context.load_cert_chain(tmp_path / "pair.pem")

    return give


# -- the declared state -----------------------------------------------------------------------------------------------


@dataclass
class FleetFixture:
    """A fleet in the database with a gateway, two pools and an exit in each, and methods to change it."""

    database: Database
    fleet: FleetRow
    listener: ListenerRow
    gateway: ProxyRow
    pools: dict[str, PoolRow] = field(default_factory=dict)
    exits: dict[str, ExitRow] = field(default_factory=dict)

    @classmethod
    async def declare(cls, database: Database) -> FleetFixture:
        async with write(database) as unit:
            fleet = await declared.save(unit, FleetRow(name="demo", created_at=AT))
            listener = await declared.save(unit, ListenerRow(fleet_id=fleet.id, address="127.0.0.1", port=8080))
            fleet_db = cls(database, fleet, listener, await cls._gateway(unit, fleet, "gw-1"))
            for country in ("us", "de"):
                await fleet_db._pool(unit, country)
        return fleet_db

    @staticmethod
    async def _gateway(unit: UnitOfWork, fleet: FleetRow, name: str) -> ProxyRow:
        return await declared.save(unit, ProxyRow(fleet_id=fleet.id, name=name, role=Role.GATEWAY, created_at=AT))

    async def _pool(self, unit: UnitOfWork, country: str) -> None:
        pool = PoolRow(fleet_id=self.fleet.id, name=country, country=country, created_at=AT)
        self.pools[country] = await declared.save(unit, pool)
        proxy = ProxyRow(fleet_id=self.fleet.id, name=f"{country}-1", role=Role.EXIT, created_at=AT)
        await declared.save(unit, proxy)
        exit_ = ExitRow(
            id=proxy.id,
            pool_id=pool.id,
            name=proxy.name,
            address="198.51.100.1",
            endpoint="198.51.100.1",
            port=8443,
            bind_address="0.0.0.0",
            state=ExitState.HEALTHY,
            state_reason="",
            state_since=AT,
            created_at=AT,
        )
        self.exits[country] = await declared.save(unit, exit_)

    async def add_gateway(self, name: str) -> Identity:
        async with write(self.database) as unit:
            proxy = await self._gateway(unit, self.fleet, name)
        return Identity(self.fleet.id, Role.GATEWAY, proxy.id)

    async def add_pool(self, country: str) -> None:
        async with write(self.database) as unit:
            await self._pool(unit, country)

    async def change(self, row: Any, **fields: Any) -> int:
        """Change fields of a row. Return the new revision."""
        async with write(self.database) as unit:
            held = await declared.lock(unit.session, type(row), row.id)
            await declared.save_changes(unit, held, fields)
        assert unit.revision is not None
        return unit.revision

    async def remove(self, *rows: Any) -> None:
        async with write(self.database) as unit:
            for row in rows:
                await declared.remove(unit, await declared.lock(unit.session, type(row), row.id))

    @property
    def identity(self) -> Identity:
        return Identity(self.fleet.id, Role.GATEWAY, self.gateway.id)

    def exit_identity(self, country: str) -> Identity:
        return Identity(self.fleet.id, Role.EXIT, self.exits[country].id)

    def cluster(self, country: str) -> str:
        return names.pool_cluster(self.pools[country])


@pytest.fixture
async def fleet_db(database: Database) -> FleetFixture:
    return await FleetFixture.declare(database)


# -- the server --------------------------------------------------------------------------------------------------------

Serve = Callable[..., AbstractAsyncContextManager[XdsServer]]


@pytest.fixture
def serve(database: Database, authority: CertificateAuthority, until: Callable[..., Any]) -> Serve:
    """`async with serve() as server` runs a replica, by default on the test's database.

    `canary`, `debounce`, `envoy`, `clock` and `connections` are arguments of `run_server`; all others are `Limits`.
    """

    @asynccontextmanager
    async def start(on: Database = database, *, ready: bool = True, **given: Any) -> AsyncIterator[XdsServer]:
        more = {
            name: given.pop(name) for name in ("canary", "debounce", "envoy", "clock", "connections") if name in given
        }
        limits = Limits(**{"removal_grace_s": 0, **given})
        async with run_server(on, CurrentAuthority(authority), ["127.0.0.1:0"], limits=limits, **more) as server:
            if ready:
                await until(lambda: server.ready)
            yield server

    return start


@pytest.fixture
async def server(fleet_db: FleetFixture, serve: Serve) -> AsyncIterator[XdsServer]:
    async with serve() as started:
        yield started


# -- the client --------------------------------------------------------------------------------------------------------


class AdsTestClient:
    """A proxy on a delta stream. It subscribes as Envoy does; tests choose what it accepts."""

    def __init__(self, channel: grpc.aio.Channel, node_id: str = "") -> None:
        self.channel = channel
        self.call = channel.stream_stream(DELTA)()
        self.versions: dict[str, dict[str, str]] = {}
        """Accepted versions by type URL and name."""
        self.bodies: dict[tuple[str, str], bytes] = {}
        self.responses: list[DeltaDiscoveryResponse] = []
        """All responses on this stream."""
        self._node = bytes(Node(id=node_id))
        self._named: dict[str, set[str]] = {}
        self._writing = asyncio.Lock()
        """gRPC takes one write at a time, and a test may write beside a GatewayClient."""

    async def ask(self, type_url: str, *subscribe: str, **fields: Any) -> None:
        request = DeltaDiscoveryRequest(
            node=self._node, type_url=type_url, resource_names_subscribe=subscribe, **fields
        )
        async with self._writing:
            await self.call.write(request.SerializeToString())
        self._named.setdefault(type_url, set()).update(subscribe)

    async def start(self, resumed: dict[str, dict[str, str]] | None = None) -> None:
        """Subscribe as Envoy does, and state the resources `resumed` from an earlier stream."""
        self.versions = {type_url: {**held} for type_url, held in (resumed or {}).items()}
        for type_url in (names.CLUSTER, names.LISTENER):
            await self.ask(type_url, initial_resource_versions=self.versions.get(type_url, {}))
        for type_url in (names.ENDPOINT, names.ROUTE, names.EXTENSION):
            if held := self.versions.get(type_url):
                await self.ask(type_url, *held, initial_resource_versions=held)

    async def read(self) -> DeltaDiscoveryResponse:
        """Read the next response, without accepting it."""
        async with asyncio.timeout(BOUND_S):
            raw = await self.call.read()
        assert raw is not grpc.aio.EOF, "the stream ended"
        response = DeltaDiscoveryResponse.FromString(raw)
        self.responses.append(response)
        return response

    async def accept(self, response: DeltaDiscoveryResponse) -> None:
        held = self.versions.setdefault(response.type_url, {})
        for resource in response.resources:
            held[resource.name] = resource.version
            self.bodies[response.type_url, resource.name] = resource.resource.value
        for name in response.removed_resources:
            held.pop(name, None)
        await self.ask(response.type_url, response_nonce=response.nonce)
        await self._ask_for_more(response)

    async def reject(self, response: DeltaDiscoveryResponse, words: str) -> None:
        error = Status(code=13, message=words.encode(errors="surrogateescape"))
        await self.ask(response.type_url, response_nonce=response.nonce, error_detail=error)

    async def until(self, holds: Callable[[AdsTestClient], bool]) -> None:
        """Accept responses until a condition holds."""
        async with asyncio.timeout(BOUND_S):
            while not holds(self):
                await self.accept(await self.read())

    def held(self, type_url: str) -> set[str]:
        return {*self.versions.get(type_url, {})}

    def count(self, type_url: str) -> int:
        """Return the number of responses of a type on this stream."""
        return sum(response.type_url == type_url for response in self.responses)

    async def end(self) -> grpc.StatusCode:
        """Wait for the end of the stream, without accepting responses. Return its status."""
        async with asyncio.timeout(BOUND_S):
            try:
                while (raw := await self.call.read()) is not grpc.aio.EOF:
                    self.responses.append(DeltaDiscoveryResponse.FromString(raw))
            except grpc.aio.AioRpcError:
                pass
            return await self.call.code()

    async def _ask_for_more(self, response: DeltaDiscoveryResponse) -> None:
        wanted = {resource.name for resource in response.resources}
        if response.type_url == names.CLUSTER:
            wanted = {name for name in wanted if name != names.TARGETS}
            if new := wanted - self._named.get(names.ENDPOINT, set()):
                await self.ask(names.ENDPOINT, *sorted(new))
        if response.type_url == names.LISTENER:
            routes = {names.GATEWAY_LISTENER: names.GATEWAY_ROUTES, names.EXIT_LISTENER: names.EXIT_ROUTES}
            if new := {routes[name] for name in wanted} - self._named.get(names.ROUTE, set()):
                await self.ask(names.ROUTE, *sorted(new))
            if names.GATEWAY_LISTENER in wanted and names.EXTENSION not in self._named:
                await self.ask(names.EXTENSION, names.GROUPS_FILTER)


def complete(pools: int) -> Callable[[AdsTestClient], bool]:
    """Return a condition: a gateway holds everything of a fleet with this number of pools."""
    wanted = {names.CLUSTER: pools, names.ENDPOINT: pools, names.LISTENER: 1, names.ROUTE: 1, names.EXTENSION: 1}
    return lambda client: all(len(client.held(type_url)) == count for type_url, count in wanted.items())


@pytest.fixture
def has_all() -> Callable[[int], Callable[[AdsTestClient], bool]]:
    """`client.until(has_all(2))` waits until a gateway holds everything of a fleet with two pools."""
    return complete


Dial = Callable[..., AbstractAsyncContextManager[grpc.aio.Channel]]


@pytest.fixture
def dial(authority: CertificateAuthority) -> Dial:
    """`async with dial(server, identity) as channel`; optionally with another authority's certificate, with that of `pair`, or with none."""

    @asynccontextmanager
    async def connect(
        server: XdsServer,
        identity: Identity | None,
        *,
        signed_by: CertificateAuthority = authority,
        pair: KeyPair | None = None,
    ) -> AsyncIterator[grpc.aio.Channel]:
        if pair is None and identity is not None:
            pair = certify(signed_by, identity)
        credentials = grpc.ssl_channel_credentials(
            root_certificates=authority.certificate_pem.encode(),
            private_key=pair.key_pem.encode() if pair else None,
            certificate_chain=pair.certificate_pem.encode() if pair else None,
        )
        options = [
            ("grpc.ssl_target_name_override", XDS_SERVER_NAME),
            ("grpc.use_local_subchannel_pool", 1),
            (
                "grpc.http2.bdp_probe",
                0,
            ),  # otherwise a busy machine's round trips widen the window of a client that does not read
        ]
        async with grpc.aio.secure_channel(f"127.0.0.1:{server.ports[0]}", credentials, options=options) as channel:
            yield channel

    return connect


Connect = Callable[..., AbstractAsyncContextManager[AdsTestClient]]


@pytest.fixture
def connect(dial: Dial) -> Connect:
    """`async with connect(server, identity) as client`: a proxy on a delta stream."""

    @asynccontextmanager
    async def start(
        server: XdsServer,
        identity: Identity | None,
        *,
        node_id: str = "",
        **credential: Any,
    ) -> AsyncIterator[AdsTestClient]:
        async with dial(server, identity, **credential) as channel:
            yield AdsTestClient(channel, node_id)

    return start


class GatewayClient:
    """A client that answers by itself: it accepts each response, unless its type is paused or rejected."""

    def __init__(self, client: AdsTestClient, identity: Identity) -> None:
        self.client = client
        self.identity = identity
        self.paused: set[str] = set()
        """Types whose responses are read and left unanswered."""
        self.refuses: dict[str, str] = {}
        """Error messages by type URL: responses of these types are rejected."""
        self.refused: list[DeltaDiscoveryResponse] = []
        self.waiting: list[DeltaDiscoveryResponse] = []
        self.code: grpc.StatusCode | None = None
        """Status with which the stream ended."""
        self._turn = asyncio.Lock()

    @property
    def id(self) -> UUID:
        return self.identity.proxy_id

    def pause(self, *type_urls: str) -> None:
        self.paused.update(type_urls)

    async def resume(self) -> None:
        """Answer the waiting responses and all later ones; none once the stream has ended."""
        self.paused.clear()
        async with self._turn:
            while self.waiting and not self.client.call.done():
                await self._answer(self.waiting.pop(0))

    def was_sent(self, type_url: str, name: str) -> bool:
        """Return whether a resource, or its removal, was sent on this stream."""
        return any(
            response.type_url == type_url
            and (name in response.removed_resources or name in {resource.name for resource in response.resources})
            for response in self.client.responses
        )

    def versions_sent(self, type_url: str, name: str) -> list[str]:
        """Return all versions of a resource that were sent on this stream."""
        return [
            resource.version
            for response in self.client.responses
            if response.type_url == type_url
            for resource in response.resources
            if resource.name == name
        ]

    async def run(self, resumed: dict[str, dict[str, str]] | None) -> None:
        try:
            async with self._turn:
                await self.client.start(resumed)
            while (raw := await self.client.call.read()) is not grpc.aio.EOF:
                response = DeltaDiscoveryResponse.FromString(raw)
                self.client.responses.append(response)
                async with self._turn:
                    if response.type_url in self.paused:
                        self.waiting.append(response)
                    else:
                        await self._answer(response)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        self.code = await self.client.call.code()

    async def _answer(self, response: DeltaDiscoveryResponse) -> None:
        if (words := self.refuses.get(response.type_url)) is not None:
            self.refused.append(response)
            await self.client.reject(response, words)
        else:
            await self.client.accept(response)


@pytest.fixture
def drive(connect: Connect) -> Callable[..., AbstractAsyncContextManager[GatewayClient]]:
    """`async with drive(server, identity) as gateway`: a gateway that answers by itself."""

    @asynccontextmanager
    async def start(
        server: XdsServer, identity: Identity, *, resumed: dict[str, dict[str, str]] | None = None
    ) -> AsyncIterator[GatewayClient]:
        async with connect(server, identity) as client:
            gateway = GatewayClient(client, identity)
            task = asyncio.create_task(gateway.run(resumed))
            try:
                yield gateway
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    return start


@dataclass
class SotwClient:
    """A minimal client of the state-of-the-world variant."""

    call: Any

    async def ask(self, type_url: str, *resource_names: str, **fields: Any) -> None:
        request = DiscoveryRequest(type_url=type_url, resource_names=resource_names, **fields)
        await self.call.write(request.SerializeToString())

    async def read(self) -> DiscoveryResponse:
        async with asyncio.timeout(BOUND_S):
            return DiscoveryResponse.FromString(await self.call.read())


@pytest.fixture
def speak_sotw() -> Callable[..., SotwClient]:
    return lambda channel, method=SOTW: SotwClient(channel.stream_stream(method)())


@pytest.fixture
def synced(database: Database) -> Callable[..., Any]:
    """`await synced(proxy_id)` returns by type the revision of a proxy's last answer, whether it accepted, and the detail."""

    async def read(proxy_id: UUID) -> dict[str, tuple[int, bool, str]]:
        async with database.session() as session:
            rows = await sync.of_proxy(session, proxy_id)
        found = {}
        for row in rows:
            rejected = (row.rejected_revision or 0) > (row.accepted_revision or 0)
            if row.accepted_revision or rejected:
                revision = row.rejected_revision if rejected else row.accepted_revision
                found[row.type_url] = (revision, not rejected, row.detail)
        return found

    return read


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_logged_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Assert that nothing is logged as an error while the test runs, including by asyncio and gRPC."""
    caplog.set_level(logging.ERROR)
    with structlog.testing.capture_logs() as events:
        yield
    loud = [event for event in events if event["log_level"] in ("error", "critical") or "exception" in event]
    records = [record for phase in ("setup", "call") for record in caplog.get_records(phase)]
    assert not loud
    assert not [record.getMessage() for record in records if record.levelno >= logging.ERROR]


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> list[DiscoveryService]:
    """The discovery services of all replicas that the test starts, in order, so that it can count their streams."""
    started: list[DiscoveryService] = []

    class RecordedDiscoveryService(DiscoveryService):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            started.append(self)

    monkeypatch.setattr("xds.server.server.DiscoveryService", RecordedDiscoveryService)
    return started
