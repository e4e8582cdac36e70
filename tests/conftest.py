"""What tests share: a real PostgreSQL, a fresh database each, a clock, and the rule that nothing is skipped in CI."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import URL

from model.database import Database, parse_url
from model.embedded import embedded_server
from model.migrating import upgrade

TEMPLATE = "template_exitplane"
_NUMBERS = itertools.count(1)


# -- nothing is skipped in CI ------------------------------------------------------------------------------------------


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """A test that needs tunnels, Envoy or PostgreSQL proves nothing where it is skipped, so in CI that is a failure."""
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid} was skipped in CI, where every test must run ({reason})"


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[URL]:
    """A real server for the session, with a migrated database to copy. The URL is of its maintenance database."""
    # not pytest's own temporary folder: only its owner may enter that, and as root the server runs as somebody else
    with tempfile.TemporaryDirectory(prefix="exitplane-", dir=_fast_folder(), ignore_cleanup_errors=True) as folder:
        state = Path(folder)
        state.chmod(0o755)
        with embedded_server(state) as url:
            server = parse_url(url)
            asyncio.run(_make_template(server))
            yield server


def _fast_folder() -> str | None:
    """Memory where there is enough: a database is copied there twenty times as fast as on a disk."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    return str(memory) if roomy else None


async def _make_template(server: URL) -> None:
    # nothing here outlives the session, so nothing need reach a disk
    settings = [f"ALTER SYSTEM SET {name} = off" for name in ("fsync", "synchronous_commit", "full_page_writes")]
    await _administer(server, *settings, "SELECT pg_reload_conf()", f"CREATE DATABASE {TEMPLATE}")
    template = Database(as_text(server.set(database=TEMPLATE)))
    await upgrade(template)
    await template.close()


async def _administer(server: URL, *statements: str) -> None:
    connection = await asyncpg.connect(as_text(server))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def as_text(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
async def database_url(postgres: URL) -> AsyncIterator[str]:
    """The URL of a migrated database that belongs to this test alone."""
    name = f"test_{next(_NUMBERS)}"
    await _administer(postgres, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield as_text(postgres.set(database=name))
    await _administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The same, connected."""
    connected = Database(database_url)
    yield connected
    await connected.close()


@dataclass
class Wire:
    """A TCP port in front of PostgreSQL, which can be cut and mended."""

    target: str
    port: int = 0
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _pumps: set[asyncio.Task[None]] = field(default_factory=set)

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """From now on connections are refused, and those there are break off."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_unix_connection(self.target)
        for source, sink in ((reader, behind_writer), (behind_reader, writer)):
            self._writers.add(sink)
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await source.read(65536):
                sink.write(chunk)
                await sink.drain()
        self._writers.discard(sink)
        sink.transport.abort()


@asynccontextmanager
async def _wired(database_url: str) -> AsyncIterator[tuple[Database, Wire]]:
    url = parse_url(database_url)
    wire = Wire(target=f"{url.query['host']}/.s.PGSQL.5432")
    await wire.mend()
    connected = Database(as_text(url.set(host="127.0.0.1", port=wire.port, query={})))
    try:
        yield connected, wire
    finally:
        await wire.cut()
        await connected.close()


@pytest.fixture
async def wired(database_url: str) -> AsyncIterator[tuple[Database, Wire]]:
    """A database of this test's own, with the wire to it that the test may cut and mend."""
    async with _wired(database_url) as pair:
        yield pair


# -- time --------------------------------------------------------------------------------------------------------------


@dataclass
class Clock:
    """A clock that stands until the test moves it."""

    now: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> datetime:
        self.now += timedelta(**by)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def until() -> Callable[..., Any]:
    """`await until(condition)`: ask again until it holds, at most `timeout_s`, and give what it gave."""

    async def ask(condition: Callable[[], Any], *, timeout_s: float = 10.0) -> Any:
        async with asyncio.timeout(timeout_s):
            while True:
                answer = condition()
                if asyncio.iscoroutine(answer):
                    answer = await answer
                if answer:
                    return answer
                await asyncio.sleep(0.01)

    return ask
