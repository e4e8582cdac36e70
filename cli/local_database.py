"""The database of this host's control plane, for commands beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from model.database import Database, DatabaseUnreachable
from model.embedded_postgres import embedded_server, running_server
from model.errors import ExitplaneError
from model.settings import read_settings

Result = TypeVar("Result")


class NoDatabase(ExitplaneError):
    code = "no_database"


@asynccontextmanager
async def open_database() -> AsyncIterator[Database]:
    """The database that EXITPLANE_DATABASE_URL names, or the embedded one that runs in the state folder."""
    settings = read_settings()
    url = settings.database_url or running_server(settings.state_dir)
    if url is None:
        raise DatabaseUnreachable(
            f"no control plane runs in {settings.state_dir}",
            hint="start `exitplane serve`, or set EXITPLANE_STATE_DIR or EXITPLANE_DATABASE_URL",
        )
    async with connect(url) as database:
        yield database


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Database]:
    """Give the database of a URL, and close it at the end of the block."""
    database = Database(url, pool_size=1)
    try:
        yield database
    finally:
        await database.close()


@contextmanager
def database_url(*, create: bool = False) -> Iterator[str]:
    """Give the URL of this host's database, and run the embedded server for as long as the block lasts unless it runs.

    Raises NoDatabase where there is none; with `create`, an empty one is made instead.
    """
    settings = read_settings()
    url = settings.database_url or running_server(settings.state_dir)
    if url is not None:
        yield url
    elif create or (settings.state_dir / "postgres").exists():
        with embedded_server(settings.state_dir) as started:
            yield started
    else:
        raise NoDatabase(
            f"there is no database in {settings.state_dir}",
            hint="set EXITPLANE_STATE_DIR or EXITPLANE_DATABASE_URL to where it is, or make one: `exitplane db upgrade`",
        )


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a command's coroutine."""
    return asyncio.run(coroutine)
