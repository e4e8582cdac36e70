"""Fixtures: a real server with the API, a client of it, and the command line."""

from __future__ import annotations

import asyncio
import functools
import io
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

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
from cli.main import main
from client import Client
from model.authority import create_authority
from model.database import Database
from model.repositories import operators
from model.tables import ApiKeyRow, OperatorRow


@dataclass(frozen=True)
class ApiInstance:
    """A running API, its URL, and the API key of an admin."""

    url: str
    key: str
    app: Any

    def client(self, **more: Any) -> Client:
        return Client(self.url, f"Bearer {self.key}", **more)


@dataclass(frozen=True)
class CommandResult:
    status: int
    out: str
    err: str


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


@pytest.fixture(scope="session")
def authority():
    return create_authority(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
async def plane(authority, database: Database, clock, until) -> AsyncIterator[ApiInstance]:
    key, at = new_key(), datetime(2026, 1, 1, tzinfo=UTC)
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    row = OperatorRow(name="admin", role="admin", password_hash=cheap.hash("correct horse battery"), created_at=at)
    async with database.session() as session:
        await operators.save(session, row)
        kept = ApiKeyRow(operator_id=row.id, name="all", digest=digest_of(key), role="admin", created_at=at)
        await operators.save(session, kept)
    context = ApiContext(
        database=database,
        authority=authority,
        clock=clock,
        heartbeat_sink=HeartbeatSink(database, replica="a", clock=clock),
        certificate_cache=CertificateCache(database),
        pending_orders=PendingOrders(database, clock),
        xds_address=None,
        xds_port=18000,
        auth_state=AuthState(password_hasher=Argon2Hasher(cheap)),
    )
    app = create_app(context)
    async with serving(app, until) as url:
        yield ApiInstance(url, key, app)


@pytest.fixture
async def api(plane: ApiInstance) -> AsyncIterator[Client]:
    async with plane.client() as client:
        yield client


class _Input(io.TextIOWrapper):
    """A standard input that may claim to be a terminal."""

    def __init__(self, text: str, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(text.encode()), encoding="utf-8")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def run_main(
    arguments: Sequence[str], settings: Mapping[str, str], stdin: str | None, *, terminal: bool
) -> CommandResult:
    """Run the console script in this process, because starting another one takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXITPLANE_")}
    with (
        patch.dict(os.environ, {**kept, **settings}, clear=True),
        patch.object(sys, "argv", ["exitplane", *arguments]),
        patch.object(sys, "stdin", _Input(stdin or "", terminal=terminal)),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return CommandResult(status, out.getvalue(), err.getvalue())


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """The environment of every command: a configuration folder of its own, and a wide terminal without colours."""
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "COLUMNS": "200", "NO_COLOR": "1"}


@pytest.fixture
def command(environment) -> Callable[..., Any]:
    """Run a command without credentials: `await command("init", …)`."""

    async def run(*arguments: str, stdin: str | None = None, terminal: bool = False, **settings: str) -> CommandResult:
        return await asyncio.to_thread(run_main, arguments, environment | settings, stdin, terminal=terminal)

    return run


@pytest.fixture
def exitplane(plane: ApiInstance, command) -> Callable[..., Any]:
    """Run a command with an admin's API key: `await exitplane("get", "pools", stdin=…)`."""
    return functools.partial(command, EXITPLANE_API=plane.url, EXITPLANE_API_KEY=plane.key)


@pytest.fixture
def program(environment) -> Callable[..., Any]:
    """Run a command without credentials in a process of its own, so that several can run at once."""

    async def run(*arguments: str, **settings: str) -> CommandResult:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EXITPLANE_")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", *arguments),
            env={**kept, **environment, **settings},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return CommandResult(process.returncode or 0, out.decode(), err.decode())

    return run
