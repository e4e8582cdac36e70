"""Fixtures of the agent's tests: stand-ins for the REST API and the ADS server, and running agents."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import grpc
import pytest
from aiohttp import web
from google.protobuf.any_pb2 import Any as AnyMessage
from yarl import URL

from agent.config.settings import AgentSettings, ExitSettings
from agent.config.state_dir import StateDir
from agent.envoy.admin import Admin
from agent.service import StopRequest, run_agent
from model import request_signature
from model.authority import CertificateAuthority, KeyPair, create_authority, issue_server, sign_request
from model.entities import Role
from model.identity import Identity
from tests.held_port import held_port
from xds.wire import discovery_pb2 as wire

TOKEN = "ep-exit-never-to-be-seen"
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def _long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengthen timeouts on loopback for a busy machine. Tests of timeouts set shorter ones."""
    for name in (
        *("egress.http_sources.CONNECT_TIMEOUT_S", "egress.bypass._TIMEOUT_S", "egress.latency._SAMPLE_TIMEOUT_S"),
        *("egress.latency._TOTAL_TIMEOUT_S", "egress.parent_proxy.TIMEOUT_S", "net.dns_client._TCP_S"),
        *("service.LAST_HEARTBEAT_S", "vpn.tunnel_health.PROBE_TIMEOUT_S"),
    ):
        monkeypatch.setattr(f"agent.{name}", PATIENCE_S)
    monkeypatch.setattr("agent.net.dns_client.WAITS_S", (PATIENCE_S, PATIENCE_S))
    for name in ("envoy.admin._TIMEOUT", "control.signed_client.TIMEOUT"):
        monkeypatch.setattr(f"agent.{name}", aiohttp.ClientTimeout(total=PATIENCE_S))


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    return create_authority(datetime.now(UTC))


# -- the REST API ------------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """An answer that replaces the stand-in's own."""

    status: int
    body: Mapping[str, Any] = field(default_factory=dict)
    content_type: str = "application/problem+json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Plane:
    """A REST API that enrols every caller and accepts heartbeats with a valid signature."""

    authority: CertificateAuthority
    xds_port: int = 1
    interval_s: float = 0.05
    url: str = ""
    enrolled: list[dict[str, Any]] = field(default_factory=list)
    beats: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    instead: list[Answer] = field(default_factory=list)
    """Answers to the next enrolments, used one by one."""
    to_beats: Answer | None = None
    ahead: timedelta = timedelta(0)
    """Its clock minus this host's."""
    newest: datetime = datetime(2020, 1, 1, tzinfo=UTC)
    """The newest signature that it knows. It refuses those that are not newer."""
    signed: list[datetime] = field(default_factory=list)
    """The times of accepted signatures."""
    lifetime: timedelta = timedelta(days=365)
    """The lifetime of the certificates that it signs from now on."""
    renewals: list[str] = field(default_factory=list)
    """The thumbprints of certificates that were to be renewed."""
    to_renewals: Answer | None = None
    on_stopping: Callable[[], Awaitable[None]] | None = None
    certificate: str = ""
    """The newest certificate that it signed."""
    identity: Identity | None = None
    runner: web.AppRunner | None = None
    tls: ssl.SSLContext | None = None
    port: int = 0
    """A held port, so that it can stop and start again."""

    def said(self, **fields: Any) -> bool:
        """Return whether the last heartbeat has these fields."""
        return bool(self.beats) and fields.items() <= self.beats[-1].items()

    def order_results(self) -> dict[str, dict[str, Any]]:
        """Return the results of orders by id. Each is in one heartbeat only, which need not be the last one."""
        return {result["id"]: result for beat in self.beats for result in beat.get("order_results", ())}

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/api/v1/{kind}/register", self._enrol)
        app.router.add_post("/api/v1/{kind}/{id}/heartbeat", self._receive_heartbeat)
        app.router.add_post("/api/v1/{kind}/{id}/certificate", self._renew)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port, ssl_context=self.tls, reuse_port=True)
        await site.start()
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    async def _enrol(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.enrolled.append(body)
        self.paths.append(request.path)
        if self.instead:
            return respond(self.instead.pop(0))
        role = Role.EXIT if request.match_info["kind"] == "exits" else Role.GATEWAY
        self.identity = identity = Identity(UUID(int=1), role, uuid4())
        self._sign(body["csr"])
        given = {
            "id": str(identity.proxy_id),
            "fleet_id": str(identity.fleet_id),
            "certificate": self.certificate,
            **self._authority_fields(),
            "xds": {"address": None, "port": self.xds_port},
            "heartbeat": {"interval_s": self.interval_s},
        }
        return web.json_response(given, status=201)

    def _authority_fields(self) -> dict[str, str]:
        return {"authority": self.authority.certificate_pem, "authority_version": self.authority.version}

    def _sign(self, csr: str) -> None:
        assert self.identity is not None
        self.certificate = sign_request(self.authority, csr, self.identity, datetime.now(UTC), self.lifetime)

    async def _renew(self, request: web.Request) -> web.Response:
        body = await request.read()
        claim = request_signature.read(request.headers["Authorization"])
        key = request_signature.public_key_of(self.certificate)
        request_signature.verify(claim, key, request.path, body, datetime.now(UTC) + self.ahead)
        if self.to_renewals:
            return respond(self.to_renewals)
        self.renewals.append(claim.thumbprint)
        self._sign(json.loads(body)["csr"])
        given = {"certificate": self.certificate, **self._authority_fields()}
        return web.json_response(given, status=201)

    async def _receive_heartbeat(self, request: web.Request) -> web.Response:
        body = await request.read()
        claim = request_signature.read(request.headers["Authorization"])
        assert claim.thumbprint in {*self.renewals, request_signature.thumbprint_of(self.certificate)}
        now = datetime.now(UTC) + self.ahead
        try:
            key = request_signature.public_key_of(self.certificate)
            signed_at = request_signature.verify(claim, key, request.path, body, now)
        except request_signature.BadSignature as error:
            if "another time" not in error.message:
                raise
            return respond(Answer(401, {"detail": error.message}, headers={"Date": format_datetime(now, usegmt=True)}))
        if not request_signature.is_newer(signed_at, self.newest, now):
            detail = {"detail": "not newer", "code": "stale_signature", "errors": [{"value": self.newest.isoformat()}]}
            return respond(Answer(401, detail))
        self.newest = signed_at
        self.signed.append(signed_at)
        status = json.loads(body)
        self.beats.append(status)
        self.paths.append(request.path)
        if status["stopping"] and self.on_stopping:
            await self.on_stopping()
        if self.to_beats:
            return respond(self.to_beats)
        reply = {"state": "healthy", "interval_s": self.interval_s, "authority_version": self.authority.version}
        return web.json_response(reply, status=202)


def respond(answer: Answer) -> web.Response:
    return web.Response(
        status=answer.status,
        text=json.dumps(dict(answer.body)),
        content_type=answer.content_type,
        headers=dict(answer.headers),
    )


@pytest.fixture
async def plane(authority: CertificateAuthority) -> AsyncIterator[Plane]:
    with held_port() as port:
        standing_in = Plane(authority, port=port)
        await standing_in.start()
        yield standing_in
        await standing_in.stop()


# -- the ADS server ----------------------------------------------------------------------------------------------------


@dataclass
class Source:
    """An ADS server that sends all its resources of a type, unless the client states versions."""

    target: str
    """A held port of 127.0.0.1, or `unix:PATH` without TLS."""
    authority: CertificateAuthority
    held: dict[str, dict[str, bytes]] = field(default_factory=dict)
    streams: list[dict[str, dict[str, str]]] = field(default_factory=list)
    """The versions that each stream stated in its first request of a type."""
    sent: list[str] = field(default_factory=list)
    refuses: grpc.StatusCode | None = None
    """The status with which every stream ends at once."""
    server: grpc.aio.Server | None = None
    port: int = 0
    certificate: KeyPair | None = None
    """The server's certificate; None for the control plane's."""

    async def start(self) -> None:
        server = grpc.aio.server(options=[("grpc.http2.max_ping_strikes", 0), ("grpc.so_reuseport", 1)])
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"DeltaAggregatedResources": handler}),)
        )
        self._bind(server)
        await server.start()
        self.server = server

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(None)
            self.server = None

    def _bind(self, server: grpc.aio.Server) -> None:
        if self.target.startswith("unix:"):
            server.add_insecure_port(self.target)
        else:
            self.port = server.add_secure_port(self.target, self._credentials())

    def _credentials(self) -> grpc.ServerCredentials:
        own = self.certificate or issue_server(self.authority, datetime.now(UTC))
        pair = (own.key_pem.encode(), own.certificate_pem.encode())
        root = self.authority.certificate_pem.encode()
        return grpc.ssl_server_credentials([pair], root_certificates=root, require_client_auth=True)

    async def _serve(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        known: dict[str, dict[str, str]] = {}
        self.streams.append(known)
        if self.refuses:
            await context.abort(self.refuses, "not now")
        async for raw in requests:
            request = wire.DeltaDiscoveryRequest.FromString(raw)
            if request.type_url in known:
                continue
            known[request.type_url] = dict(request.initial_resource_versions)
            held = self.held.get(request.type_url, {})
            if held and known[request.type_url]:
                continue
            self.sent.append(request.type_url)
            yield self._response(request.type_url, held).SerializeToString()

    def _response(self, type_url: str, held: Mapping[str, bytes]) -> wire.DeltaDiscoveryResponse:
        resources = [
            wire.Resource(name=name, version="1", resource=AnyMessage(type_url=type_url, value=value))
            for name, value in held.items()
        ]
        return wire.DeltaDiscoveryResponse(type_url=type_url, nonce=str(len(self.sent)), resources=resources)


@pytest.fixture
async def source(authority: CertificateAuthority, plane: Plane) -> AsyncIterator[Source]:
    """An empty ADS server, whose port the stand-in API gives to proxies."""
    with held_port() as port:
        standing_in = Source(f"127.0.0.1:{port}", authority)
        await standing_in.start()
        plane.xds_port = port
        yield standing_in
        await standing_in.stop()


# -- agents ------------------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """An agent in this process."""

    settings: AgentSettings
    stop: StopRequest
    task: asyncio.Task[None]

    @property
    def record(self) -> dict[str, Any] | None:
        """The content of envoy.json, or None."""
        text = StateDir(self.settings.state).read("envoy.json")
        return None if text is None else json.loads(text)

    async def end(self) -> None:
        """Request a stop and wait for the end. Raises the agent's error."""
        self.stop.request()
        async with asyncio.timeout(PATIENCE_S):
            await self.task


@pytest.fixture
def make_settings(plane: Plane, tmp_path: Path) -> Callable[..., AgentSettings]:
    """A function that makes settings for a role, with some replaced."""
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)

    def make(role: Role, **other: Any) -> AgentSettings:
        exit_ = ExitSettings(pool="us", address="192.0.2.3", port=8443) if role is Role.EXIT else None
        given = {"name": f"{role}-1", "state": tmp_path / f"{role}", "concurrency": 1, "exit": exit_, **other}
        return AgentSettings(api=URL(plane.url), token_file=token, **given)

    return make


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Running]]:
    """A function `start(settings, checks)` that starts an agent, which is stopped after the test."""
    started: list[Running] = []

    def begin(settings: AgentSettings, checks: Any = None) -> Running:
        stop = StopRequest()
        task = asyncio.create_task(run_agent(settings, stop, checks))
        started.append(Running(settings, stop, task))
        return started[-1]

    yield begin
    for running in started:
        if not running.task.done():
            running.stop.request()
            running.stop.request()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(running.task, return_exceptions=True)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def admin_of(until) -> Callable[[Running], Awaitable[Admin]]:
    """A function that waits for the admin interface of an agent's Envoy."""

    async def find(running: Running) -> Admin:
        await until(lambda: running.record, timeout_s=PATIENCE_S)
        return Admin(StateDir(running.settings.state))

    return find


@pytest.fixture
def envoy_state() -> Callable[[Admin], Awaitable[str]]:
    """A function that returns the state in Envoy's /server_info."""

    async def ask(admin: Admin) -> str:
        return json.loads(await admin._request("GET", "/server_info"))["state"]

    return ask


@pytest.fixture
def answer() -> type[Answer]:
    return Answer


@pytest.fixture
def is_running() -> Callable[[int], bool]:
    """A function that returns whether a process runs and is no zombie."""

    def look(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return look
