"""A running API over real connections, with the key of an admin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import uvicorn
from argon2 import PasswordHasher

from api.app import create_app
from api.kernel.context import ApiContext
from api.runtime.auth_state import AuthState
from api.runtime.certificate_cache import CertificateCache
from api.runtime.heartbeat_sink import HeartbeatSink
from api.runtime.passwords import Argon2Hasher
from api.runtime.pending_orders import PendingOrders
from api.runtime.tokens import digest_of, new_key
from client import Client
from model.authority import CertificateAuthority, create_authority
from model.container_policy import ContainerPolicy
from model.current_authority import CurrentAuthority
from model.database import Database
from model.repositories import operators
from model.tables import ApiKeyRow, OperatorRow
from tests.conftest import Clock


@dataclass(frozen=True)
class ApiInstance:
    """A running API, its URL, and the API key of an admin."""

    url: str
    key: str
    app: Any

    def client(self, **more: Any) -> Client:
        return Client(self.url, f"Bearer {self.key}", **more)


@asynccontextmanager
async def serving(app: Any, until: Callable[..., Any]) -> AsyncIterator[str]:
    """Serve an ASGI application, and yield its URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def run_api(
    authority: CertificateAuthority, database: Database, clock: Clock, until: Callable[..., Any]
) -> AsyncIterator[ApiInstance]:
    """Run the API on a database, with an admin and its API key."""
    key, at = new_key(), datetime(2026, 1, 1, tzinfo=UTC)
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    row = OperatorRow(name="admin", role="admin", password_hash=cheap.hash("correct horse battery"), created_at=at)
    async with database.session() as session:
        await operators.save(session, row)
        kept = ApiKeyRow(operator_id=row.id, name="all", digest=digest_of(key), role="admin", created_at=at)
        await operators.save(session, kept)
    context = ApiContext(
        database=database,
        authority=CurrentAuthority(authority),
        clock=clock,
        heartbeat_sink=HeartbeatSink(database, replica="a", clock=clock),
        certificate_cache=CertificateCache(database),
        pending_orders=PendingOrders(database, clock),
        xds_address=None,
        xds_port=18000,
        auth_state=AuthState(password_hasher=Argon2Hasher(cheap)),
        container_policy=ContainerPolicy(images=["exit:*"]),
    )
    app = create_app(context)
    async with serving(app, until) as url:
        yield ApiInstance(url, key, app)


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    return create_authority(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
async def plane(
    authority: CertificateAuthority, database: Database, clock: Clock, until: Callable[..., Any]
) -> AsyncIterator[ApiInstance]:
    async with run_api(authority, database, clock, until) as instance:
        yield instance


@pytest.fixture
async def api(plane: ApiInstance) -> AsyncIterator[Client]:
    async with plane.client() as client:
        yield client
