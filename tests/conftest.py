"""Fixtures and hooks of all tests: a real PostgreSQL, a new database for each test, a clock, and rules for the run."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import gc
import itertools
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import structlog
from hypothesis import settings, strategies
from sqlalchemy.engine import URL

from model.database import Database, parse_url
from model.embedded_postgres import embedded_server, get_server, pg_ctl
from model.encryption import KEY_BYTES, Keyring
from model.schema_version import upgrade
from tests.event_loop import GrpcTolerantPolicy
from tests.maintenance_connection import MaintenanceConnection
from tests.processor_time import LIMIT_S, ProcessorTimeLimit
from tests.scale import at_night
from tests.scheduling import LabScheduling
from tests.shared_statements import share_statements

TEMPLATE = "template_exitplane"
KEYRING = Keyring([bytes(KEY_BYTES)])
"""The key of the secrets in all databases of tests: templates hold sealed ones."""
KEY_SETTING = {"EXITPLANE_ENCRYPTION_KEY": base64.b64encode(bytes(KEY_BYTES)).decode()}
"""The setting that gives the key to a process of its own."""
STATE_FOLDER: pytest.StashKey[str] = pytest.StashKey()
STATE_FOLDER_INPUT = "exitplane_state_folder"
LIMIT_OPTION = "--limit-processor-time"
_NUMBERS = itertools.count(1)
_MAINTENANCE: dict[URL, MaintenanceConnection] = {}
_UNUSED: list[str] = []
"""Databases of this process's tests that have ended. They are dropped when the next one is created."""

# gRPC reads this at its import; otherwise it restarts its threads at every fork, in whatever network namespace (see cli/main.py)
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

asyncio.set_event_loop_policy(GrpcTolerantPolicy())
share_statements()

# the same examples in every run by day, so that results are stable; nightly runs search for new ones
settings.register_profile("day", deadline=None, derandomize=True)
settings.register_profile("night", deadline=None, print_blob=True)
settings.load_profile("night" if at_night() else "day")

# rendering a traceback with the values of all variables takes seconds
_plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _plain])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        LIMIT_OPTION, action="store_true", help=f"fail fast tests that take more than {LIMIT_S:g} s of processor time"
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from visiting modules and some thousand tests, during the collection and afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()  # garbage of the collection, some MB, stays: finding it takes half a second in each process
        gc.set_threshold(20_000, 20, 20)
        gc.enable()


# -- nothing is skipped in CI ------------------------------------------------------------------------------------------


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Fail a skipped test in CI, because a test of tunnels, Envoy or PostgreSQL proves nothing when it is skipped."""
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
def postgres(request: pytest.FixtureRequest) -> Iterator[URL]:
    """The maintenance database of a real server for all processes of the run, which has a migrated template database.

    The first process that needs the server starts it; it ends with the run, not with that process.
    """
    state = Path(_state_folder(request.config))
    with (state / "starting").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = state / "url"
        if not ready.exists():
            ready.write_text(_start_server(state))
        url = parse_url(ready.read_text())
    _MAINTENANCE[url] = MaintenanceConnection(as_text(url))
    yield url
    _MAINTENANCE.pop(url).close()


def _state_folder(config: pytest.Config) -> str:
    worker: dict[str, str] | None = getattr(config, "workerinput", None)
    return config.stash[STATE_FOLDER] if worker is None else worker[STATE_FOLDER_INPUT]


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        # not pytest's temporary folder: only its owner may enter it, and root's server runs as another user
        folder = tempfile.mkdtemp(prefix="exitplane-", dir=_fast_folder())
        Path(folder).chmod(0o755)
        config.stash[STATE_FOLDER] = folder
    if config.getoption(LIMIT_OPTION):
        config.pluginmanager.register(ProcessorTimeLimit())


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Let Hypothesis build its table of characters once, which takes two seconds, not in a test of each process."""
    if not hasattr(session.config, "workerinput"):
        strategies.text().validate()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput[STATE_FOLDER_INPUT] = node.config.stash[STATE_FOLDER]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return LabScheduling(config, log) if config.getoption("dist") == "loadscope" else None


def pytest_unconfigure(config: pytest.Config) -> None:
    folder = config.stash.get(STATE_FOLDER, None)
    if folder is None:
        return
    if (Path(folder) / "postgres" / "postmaster.pid").exists():
        with embedded_server(Path(folder)):
            pass  # takes over the running server, and stops it at the end of the block
    shutil.rmtree(folder, ignore_errors=True)


def _fast_folder() -> str | None:
    """Return a folder in memory if there is enough, where a database is copied twenty times as fast as on a disk."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    return str(memory) if roomy else None


def _start_server(state: Path) -> str:
    started = get_server(state / "postgres", cleanup_mode=None)
    url = str(started.get_uri())
    # data need not survive the run, so nothing need reach a disk; and several processes connect
    settings = ["fsync = off", "synchronous_commit = off", "full_page_writes = off", "max_connections = 400"]
    asyncio.run(administer(parse_url(url), *(f"ALTER SYSTEM SET {each}" for each in settings)))
    pg_ctl(["-w", "-m", "fast", "restart"], pgdata=started.pgdata, user=started.system_user)
    asyncio.run(_make_template(parse_url(url)))
    return url


async def _make_template(server: URL) -> None:
    await administer(server, f"CREATE DATABASE {TEMPLATE}")
    template = Database(as_text(server.set(database=TEMPLATE)))
    await upgrade(template)
    await template.close()


async def administer(server: URL, *statements: str) -> None:
    """Execute statements that need the maintenance database."""
    connection = await asyncpg.connect(as_text(server))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def as_text(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@asynccontextmanager
async def new_database(postgres: URL, template: str = "template1") -> AsyncIterator[str]:
    """Create a database with a name that no other process of the run uses, and yield its URL.

    Databases that are no longer used are dropped when it is created. The last of a process end with the server.
    """
    name = f"test_{os.getpid()}_{next(_NUMBERS)}"
    unused, _UNUSED[:] = [*_UNUSED], []
    drops = (f"DROP DATABASE {each} WITH (FORCE)" for each in unused)
    await _MAINTENANCE[postgres].execute(*drops, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    try:
        yield as_text(postgres.set(database=name))
    finally:
        _UNUSED.append(name)


@pytest.fixture(scope="session")
def template(postgres: URL) -> str:
    """The database that is copied for each test. A folder's conftest may override it with more content."""
    return TEMPLATE


@pytest.fixture
async def database_url(postgres: URL, template: str) -> AsyncIterator[str]:
    """The URL of a migrated database that belongs to this test alone."""
    async with new_database(postgres, template) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database that belongs to this test alone, connected."""
    connected = Database(database_url, keyring=KEYRING)
    yield connected
    await connected.close()


@dataclass
class DatabaseLink:
    """A TCP port in front of PostgreSQL, which can be cut and restored.

    A socket that is bound to the port, and never listens, reserves it while the link is cut.
    """

    target: str
    port: int = 0
    _claim: socket.socket | None = None
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _pumps: set[asyncio.Task[None]] = field(default_factory=set)

    async def restore(self) -> None:
        if self._claim is None:
            self._claim = self._bind()
            self.port = self._claim.getsockname()[1]
        self._server = await asyncio.start_server(self._connect, sock=self._bind())

    def close(self) -> None:
        """Release the port; the link must be cut."""
        if self._claim is not None:
            self._claim.close()

    def _bind(self) -> socket.socket:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # shares the port with the claim
        bound.bind(("127.0.0.1", self.port))
        return bound

    async def cut(self) -> None:
        """Refuse connections from now on, and abort the open ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        behind_reader, behind_writer = await asyncio.open_unix_connection(self.target)
        if self._server is None or writer.transport.is_closing():  # it was cut meanwhile
            writer.transport.abort()
            behind_writer.transport.abort()
            return
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


@pytest.fixture
async def linked_database(database_url: str) -> AsyncIterator[tuple[Database, DatabaseLink]]:
    """A database that belongs to this test alone, and the link to it, which the test may cut and restore."""
    url = parse_url(database_url)
    link = DatabaseLink(target=f"{url.query['host']}/.s.PGSQL.5432")
    await link.restore()
    connected = Database(as_text(url.set(host="127.0.0.1", port=link.port, query={})), keyring=KEYRING)
    yield connected, link
    await link.cut()
    link.close()
    await connected.close()


# -- time --------------------------------------------------------------------------------------------------------------


@dataclass
class Clock:
    """A clock that only the test advances."""

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
    """Wait until a condition holds, at most `timeout_s`, and return its value: `await until(condition)`."""

    async def ask(condition: Callable[[], Any], *, timeout_s: float = 60.0) -> Any:
        pauses = itertools.chain([0.005, 0.01], itertools.repeat(0.02))  # less often for slow conditions
        async with asyncio.timeout(timeout_s):
            for pause_s in pauses:
                answer = condition()
                if asyncio.iscoroutine(answer):
                    answer = await answer
                if answer:
                    break
                await asyncio.sleep(pause_s)
        return answer

    return ask
