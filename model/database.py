"""Connections to PostgreSQL: sessions, direct statements, and connections of one's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from model.encryption import Keyring
from model.errors import ExitplaneError
from model.sealed_columns import use_keyring

CONNECT_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_S = 10.0
UNREACHABLE = (
    OSError,
    InterfaceError,
    OperationalError,
    PoolTimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
)
"""Exceptions of the drivers when the server cannot be reached, goes away, or refuses the login."""


_CONNECT: Final[dict[str, Any]] = {
    "timeout": CONNECT_TIMEOUT_S,
    "command_timeout": STATEMENT_TIMEOUT_S,
    "server_settings": {"application_name": "exitplane"},
}
_DRIVER_POOL: Final = 2


class BadDatabaseUrl(ExitplaneError):
    code = "bad_database_url"


class DatabaseUnreachable(ExitplaneError):
    code = "database_unreachable"


def parse_url(url: str) -> URL:
    """Parse the URL of a PostgreSQL server, for asyncpg. Raises BadDatabaseUrl."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise BadDatabaseUrl("EXITPLANE_DATABASE_URL is not a URL", hint="write postgresql://user@host/name") from error
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise BadDatabaseUrl(
            f"EXITPLANE_DATABASE_URL names {parsed.get_backend_name()!r}", hint="only postgresql:// is supported"
        )
    return parsed.set(drivername="postgresql+asyncpg")


class Database:
    """One database of a server, with the connection pools. `close` closes them.

    Without a keyring, rows with secrets can be neither read nor written (MissingEncryptionKey).
    """

    def __init__(self, url: str, *, keyring: Keyring | None = None, pool_size: int = 8) -> None:
        self.url = parse_url(url)
        self.engine: AsyncEngine = create_async_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=CONNECT_TIMEOUT_S,
            connect_args=_CONNECT,
        )
        event.listen(self.engine.sync_engine, "checkout", _refuse_closed)
        if keyring is not None:
            use_keyring(self.engine.dialect, keyring)
        self._driver_pool: asyncpg.Pool[Any] | None = None
        self._reading = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncSession]:
        """Open a read-only session that sees one point in time. Raises DatabaseUnreachable."""
        async with self.session(self._reading) as session:
            yield session

    @asynccontextmanager
    async def session(self, engine: AsyncEngine | None = None) -> AsyncIterator[AsyncSession]:
        """Open a session whose transaction commits when the block ends without an error.

        Raises DatabaseUnreachable when the server is away.
        """
        try:
            async with AsyncSession(engine or self.engine, expire_on_commit=False) as session, session.begin():
                yield session
        except UNREACHABLE as error:
            raise unreachable(error) from error
        except DBAPIError as error:
            if error.connection_invalidated or is_unreachable(error):
                raise unreachable(error) from error
            raise

    async def fetch(self, statement: str, *values: Any) -> Sequence[Mapping[str, Any]]:
        """Execute one statement as its own transaction, and return its rows. Raises DatabaseUnreachable.

        It is for statements of every request: without SQLAlchemy it takes a sixth of a session's time.
        """
        if self._driver_pool is None:
            # concurrent callers get this pool too: nothing is awaited before the assignment
            self._driver_pool = asyncpg.create_pool(
                self._dsn, min_size=0, max_size=_DRIVER_POOL, init=_read_json, reset=_nothing_to_reset, **_CONNECT
            )
        try:
            await self._driver_pool
            async with self._driver_pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection:
                rows: Sequence[Mapping[str, Any]] = await connection.fetch(statement, *values)
                return rows
        except UNREACHABLE as error:
            raise unreachable(error) from error

    async def connect(self) -> asyncpg.Connection[Any]:
        """Open a connection outside the pool, for LISTEN and leases. Raises DatabaseUnreachable."""
        try:
            connection: asyncpg.Connection[Any] = await asyncpg.connect(self._dsn, **_CONNECT)
        except (*UNREACHABLE, asyncpg.PostgresError) as error:
            raise unreachable(error) from error
        return connection

    @property
    def _dsn(self) -> str:
        return self.url.set(drivername="postgresql").render_as_string(hide_password=False)

    async def close(self) -> None:
        if self._driver_pool is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._driver_pool.close()
            self._driver_pool = None
        await self.engine.dispose()


async def fetch_in(session: AsyncSession, statement: str, *values: Any) -> Sequence[Mapping[str, Any]]:
    """Execute a statement in a transaction that has begun, without SQLAlchemy: it takes a fifth of the time."""
    driver: Any = session.sync_session.connection().connection.driver_connection
    rows: Sequence[Mapping[str, Any]] = await driver.fetch(statement, *values)
    return rows


def _refuse_closed(driver_connection: Any, _record: object, _proxy: object) -> None:
    """Discard a closed connection and all older ones from the pool. Unlike a ping it needs no round trip."""
    if driver_connection.driver_connection.is_closed():
        raise InvalidatePoolError


async def _read_json(connection: asyncpg.Connection[Any]) -> None:
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)


async def _nothing_to_reset(_connection: object) -> None:
    return None


def is_unreachable(error: BaseException) -> bool:
    """Tell whether an error of SQLAlchemy was caused by one of UNREACHABLE."""
    return _was_caused_by(error, UNREACHABLE)


def _was_caused_by(error: BaseException | None, kinds: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    while error is not None:
        if isinstance(error, kinds):
            return True
        error = error.__cause__
    return False


def unreachable(error: BaseException) -> DatabaseUnreachable:
    """Return the error for a PostgreSQL that is away, refuses the login, or has no free connection."""
    if isinstance(error, PoolTimeoutError):
        return DatabaseUnreachable(
            f"no connection to PostgreSQL was free within {CONNECT_TIMEOUT_S:g} s",
            hint="send fewer requests at once, or find what holds the connections",
        )
    cause = str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__]
    if _was_caused_by(error, asyncpg.InvalidAuthorizationSpecificationError):
        return DatabaseUnreachable(
            f"PostgreSQL refuses the login ({cause[0]})",
            hint="correct the user and the password of EXITPLANE_DATABASE_URL, or of the file that PGPASSFILE names",
        )
    return DatabaseUnreachable(
        f"PostgreSQL cannot be reached ({cause[0]})", hint="start it, or set EXITPLANE_DATABASE_URL to one that runs"
    )
