"""Fixtures of the API tests: an ASGI client that can take any peer address, and proxies with real keys."""

from __future__ import annotations

import asyncio
import json as jsonlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from unittest.mock import MagicMock
from urllib.parse import unquote
from uuid import UUID

import pytest
from argon2 import PasswordHasher
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import event, text
from sqlalchemy.engine import URL

from api.app import create_app
from api.kernel.context import ApiContext
from api.runtime.auth_state import AuthState
from api.runtime.certificate_cache import CertificateCache
from api.runtime.heartbeat_sink import HeartbeatSink
from api.runtime.passwords import Argon2Hasher
from api.runtime.pending_orders import PendingOrders
from api.runtime.tokens import digest_of, new_key
from model import request_signature
from model.authority import CertificateAuthority, create_authority
from model.container_policy import ContainerPolicy
from model.current_authority import CurrentAuthority
from model.database import Database
from model.entities import Role
from model.repositories import join_tokens, operators
from model.request_signature import thumbprint_of
from model.tables import ApiKeyRow, OperatorRow
from model.token_rights import TokenRights
from tests.conftest import KEYRING, TEMPLATE, Clock, administer, as_text

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
"""A cheap hasher, so that tests of other behaviour do not wait for hashing."""
TABLES = ("fleet", "listener", "pool", "proxy", "exit", "certificate", "heartbeat", "join_token", "change", "sync")


@dataclass(frozen=True)
class ApiReply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return jsonlib.loads(self.body)

    @property
    def revision(self) -> int:
        return int(self.headers["exitplane-revision"])

    @property
    def is_problem(self) -> bool:
        return self.headers.get("content-type") == "application/problem+json"


@dataclass
class Api:
    """A client that calls the ASGI application directly, without a server."""

    app: Any
    context: ApiContext
    peer: str = "127.0.0.1"
    credential: str = ""
    """The Bearer token: an access token or an API key."""

    def holding(self, credential: str) -> Api:
        """Return a client with another credential."""
        return replace(self, credential=credential)

    async def anonymous(self, method: str, path: str, json: Any = None, **more: Any) -> ApiReply:
        """Call without a credential."""
        return await self.holding("")(method, path, json, **more)

    async def __call__(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        body: bytes | None = None,
        chunks: Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
        peer: str | None = None,
        scheme: str = "http",
    ) -> ApiReply:
        if body is None:
            body = b"" if json is None else jsonlib.dumps(json).encode()
        sent = {"host": "localhost:8000"}
        if body:
            sent |= {"content-type": "application/json", "content-length": str(len(body))}
        if chunks is not None:
            sent |= {"content-type": "application/json", "transfer-encoding": "chunked"}
        if self.credential:
            sent["authorization"] = f"Bearer {self.credential}"
        sent |= {name.lower(): value for name, value in (headers or {}).items()}
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": scheme,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in sent.items() if value],
            "client": (peer or self.peer, 50000),
            "server": ("127.0.0.1", 8000),
        }
        return await self._run(scope, iter([body] if chunks is None else chunks))

    async def _run(self, scope: dict[str, Any], chunks: Iterable[bytes]) -> ApiReply:
        pending = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
        pending.append({"type": "http.request", "body": b"", "more_body": False})
        messages: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return pending.pop(0) if pending else await asyncio.Event().wait()

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        await self.app(scope, receive, send)
        start, *rest = messages
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return ApiReply(start["status"], headers, b"".join(message.get("body", b"") for message in rest))

    def proxy(self, role: str) -> FakeProxy:
        """Return a proxy that is not enrolled yet."""
        return FakeProxy(self, Role(role))

    async def declare(self, fleet: str = "demo", pool: str = "us", country: str = "us") -> None:
        """Create a fleet and a pool."""
        listener = {"address": "127.0.0.1", "port": 8080}
        assert (await self("POST", "/api/v1/fleets", {"name": fleet, "listener": listener})).status == 201
        body = {"name": pool, "fleet": fleet, "country": country}
        assert (await self("POST", "/api/v1/pools", body)).status == 201

    async def declare_exit(self, **fields: Any) -> dict[str, Any]:
        body = {"name": "us-1", "pool": "us", "address": "198.51.100.7", "port": 8443, **fields}
        reply = await self("POST", "/api/v1/exits", body)
        assert reply.status == 201, reply.body
        created: dict[str, Any] = reply.json
        return created


@dataclass
class FakeProxy:
    """A proxy with its own key, which enrols and sends heartbeats."""

    api: Api
    role: Role
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    id: str = ""
    certificate: str = ""
    enrolled: dict[str, Any] = field(default_factory=dict)
    ahead: timedelta = timedelta(0)
    """Its clock minus the API's."""
    signed_at: datetime = LONG_AGO
    """The time of its last signature."""

    @property
    def key_pem(self) -> str:
        plain = serialization.NoEncryption()
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()

    @property
    def csr(self) -> str:
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(self.key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def collection(self) -> str:
        return "exits" if self.role is Role.EXIT else "proxies"

    @property
    def path(self) -> str:
        return f"/api/v1/{self.collection}/{self.id}/heartbeat"

    async def enrol(self, token: str, name: str = "one", *, signer: FakeProxy | None = None, **fields: Any) -> ApiReply:
        """Register with a token, signed with the key of `signer`, or the own one."""
        said: dict[str, Any] = {"join_token": token, "csr": self.csr, "name": name}
        if self.role is Role.EXIT:
            said |= {"pool": "us", "address": "198.51.100.7", "port": 8443}
        path, body = f"/api/v1/{self.collection}/register", jsonlib.dumps(said | fields).encode()
        headers = (signer or self).sign(body, path)
        reply = await self.api.anonymous("POST", path, body=body, headers=headers, peer="203.0.113.9")
        if reply.status == 201:
            self.enrolled = reply.json
            self.id, self.certificate = self.enrolled["id"], self.enrolled["certificate"]
        return reply

    async def renew(self, *, signer: FakeProxy | None = None, path: str | None = None, **fields: Any) -> ApiReply:
        """Renew the certificate, with a request that `signer` signs, or this proxy."""
        path = path or f"/api/v1/{self.collection}/{self.id}/certificate"
        body = jsonlib.dumps({"csr": self.csr} | fields).encode()
        reply = await self.send_signed(path, body, (signer or self).sign(body, path))
        if reply.status == 201:
            self.certificate = reply.json["certificate"]
        return reply

    async def send_signed(self, path: str, body: bytes, headers: dict[str, str]) -> ApiReply:
        return await self.api.anonymous("POST", path, body=body, headers=headers, peer="203.0.113.9")

    async def beat(self, *, path: str | None = None, signed_path: str | None = None, **fields: Any) -> ApiReply:
        """Send a heartbeat to `path`, signed for `signed_path`. `fields` override its body."""
        report = {"tunnel": "up", "envoy": "up", "stopping": False, "reason": "", "version": "1"} | fields
        body = jsonlib.dumps(report).encode()
        return await self.beat_raw(body, path=path, signed_path=signed_path)

    async def beat_raw(self, body: bytes, *, path: str | None = None, signed_path: str | None = None) -> ApiReply:
        path = path or self.path
        signed = self.sign(body, signed_path or path)
        return await self.api("POST", path, body=body, headers=signed, peer="203.0.113.9")

    def sign(self, body: bytes, path: str) -> dict[str, str]:
        self.signed_at = max(self.api.context.clock() + self.ahead, self.signed_at + timedelta(microseconds=1))
        thumbprint = thumbprint_of(self.certificate) if self.certificate else ""
        token = request_signature.sign(self.key_pem, thumbprint, path, body, self.signed_at)
        return {"authorization": f"Bearer {token}"}


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    return create_authority(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="session")
def routes() -> None:
    """Build the routes that all applications of a process share, so that no single test pays for them."""
    create_app(MagicMock()).openapi()


@dataclass(frozen=True)
class Person:
    """An operator, and an API key with all their rights."""

    id: UUID
    key: str


async def _make_operator(
    database: Database, name: str, role: str = "admin", *, password: str | None = None, **fields: Any
) -> Person:
    at, key = datetime(2026, 1, 1, tzinfo=UTC), new_key()
    kept = password and CHEAP.hash(password)
    row = OperatorRow(name=name, role=role, password_hash=kept, created_at=at, **fields)
    async with database.session() as session:
        await operators.save(session, row)
        every = ApiKeyRow(operator_id=row.id, name="everything", digest=digest_of(key), role="admin", created_at=at)
        await operators.save(session, every)
    return Person(row.id, key)


@pytest.fixture(scope="session")
def admin_template(postgres: URL) -> Iterator[tuple[str, Person]]:
    """Create a template database with the first admin, once per process."""
    name = f"template_admin_{os.getpid()}"

    async def make() -> Person:
        await administer(postgres, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
        made = Database(as_text(postgres.set(database=name)), keyring=KEYRING, pool_size=1)
        try:
            return await _make_operator(made, "admin")
        finally:
            await made.close()

    yield name, asyncio.run(make())
    asyncio.run(administer(postgres, f"DROP DATABASE {name}"))


@pytest.fixture(scope="session")
def demo_template(
    postgres: URL, admin_template: tuple[str, Person], authority: CertificateAuthority, routes: None
) -> Iterator[str]:
    """Create a template database with the fleet `demo` and its pool `us` as well, once per process."""
    name, (origin, admin) = f"template_demo_{os.getpid()}", admin_template

    async def make() -> None:
        await administer(postgres, f"CREATE DATABASE {name} TEMPLATE {origin} STRATEGY FILE_COPY")
        made = Database(as_text(postgres.set(database=name)), keyring=KEYRING, pool_size=1)
        try:
            await _make_api(authority, Clock(), admin, made).declare()
        finally:
            await made.close()

    asyncio.run(make())
    yield name
    asyncio.run(administer(postgres, f"DROP DATABASE {name}"))


@pytest.fixture
def template(request: pytest.FixtureRequest, admin_template: tuple[str, Person]) -> str:
    """Choose the template: with the fleet `demo` if the test uses the fixture `demo`."""
    name: str = request.getfixturevalue("demo_template") if "demo" in request.fixturenames else admin_template[0]
    return name


@pytest.fixture(scope="session")
def admin(admin_template: tuple[str, Person]) -> Person:
    """The first admin of every test's database."""
    return admin_template[1]


@pytest.fixture
def long_pool_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengthen the wait for a database connection: fifty writers on a busy machine take turns for longer than the default."""
    monkeypatch.setattr("model.database.CONNECT_TIMEOUT_S", 60.0)


@pytest.fixture
def make_operator(database: Database) -> Callable[..., Any]:
    """`await make_operator(name, role, password=…, fleet_ids=…)`: an operator."""
    return partial(_make_operator, database)


def _make_api(
    authority: CertificateAuthority, clock: Callable[[], datetime], admin: Person, database: Database, **overrides: Any
) -> Api:
    context = ApiContext(
        database=database,
        authority=CurrentAuthority(authority),
        clock=clock,
        heartbeat_sink=HeartbeatSink(database, replica="a", clock=clock),
        certificate_cache=CertificateCache(database),
        pending_orders=PendingOrders(database, clock),
        xds_address=None,
        xds_port=18000,
        **{
            "auth_state": AuthState(password_hasher=Argon2Hasher(CHEAP)),
            "container_policy": ContainerPolicy(images=["registry.example:5000/exit:*"], environment=["WIREGUARD_*"]),
            **overrides,
        },
    )
    return Api(create_app(context), context, credential=admin.key)


@pytest.fixture
def make_api(
    authority: CertificateAuthority, clock: Callable[[], datetime], admin: Person, routes: None
) -> Callable[..., Api]:
    """`make_api(database, **context)`: an API client of the admin; `context` overrides fields of ApiContext."""
    return partial(_make_api, authority, clock, admin)


@pytest.fixture
def api(make_api: Callable[..., Api], database: Database) -> Api:
    return make_api(database)


@pytest.fixture
def demo(api: Api) -> Api:
    """The API, with the fleet `demo` and its pool `us` declared."""
    return api


@pytest.fixture
def make_token(database: Database, clock: Callable[[], datetime]) -> Callable[..., Any]:
    """`await make_token(role)`: a join token for a fleet, for any number of registrations unless `rights` say otherwise."""

    async def make(role: Role, fleet: str = "demo", ttl: timedelta = timedelta(hours=1), **rights: Any) -> str:
        async with database.session() as session:
            fleet_id: UUID = (
                await session.execute(text("SELECT id FROM fleet WHERE name = :name"), {"name": fleet})
            ).scalar_one()
            granted = TokenRights(fleet_id, role, **{"uses": None, **rights})
            return (await join_tokens.create(session, granted, clock(), lifetime=ttl))[1]

    return make


@pytest.fixture
async def exit_proxy(demo: Api, make_token: Callable[..., Any]) -> FakeProxy:
    """An enrolled exit."""
    proxy = FakeProxy(demo, Role.EXIT)
    assert (await proxy.enrol(await make_token(Role.EXIT))).status == 201
    return proxy


@pytest.fixture
async def gateway(demo: Api, make_token: Callable[..., Any]) -> FakeProxy:
    """An enrolled gateway."""
    proxy = FakeProxy(demo, Role.GATEWAY)
    assert (await proxy.enrol(await make_token(Role.GATEWAY))).status == 201
    return proxy


@pytest.fixture
def make_proxy(api: Api) -> Callable[[Role], FakeProxy]:
    """`make_proxy(role)`: a proxy that is not enrolled yet."""
    return lambda role: FakeProxy(api, role)


@pytest.fixture
def stored(database: Database) -> Callable[[], Any]:
    """`await stored()`: the revision and how many rows each table has."""

    async def count() -> dict[str, int]:
        async with database.session() as session:
            revision = (await session.execute(text("SELECT value FROM revision"))).scalar_one()
            rows = {
                table: (await session.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() for table in TABLES
            }
        return {"revision": revision} | rows

    return count


@pytest.fixture
def query(database: Database) -> Callable[..., Any]:
    """`await query(sql, **values)`: the rows as dictionaries."""

    async def run(sql: str, **values: Any) -> list[dict[str, Any]]:
        async with database.session() as session:
            result = await session.execute(text(sql), values)
            return [dict(row) for row in result.mappings().all()] if result.returns_rows else []

    return run


@pytest.fixture
def statements(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The list of statements sent to the database from now on."""
    seen, fetch = [], database.fetch

    def note(_connection, _cursor, statement, *_):
        seen.append(statement)

    def fetched(statement, *values):
        seen.append(statement)
        return fetch(statement, *values)

    monkeypatch.setattr(database, "fetch", fetched)
    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine.sync_engine, "before_cursor_execute", note)
