"""Access to the database of this host's control plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from model.database import Database, DatabaseUnreachable
from model.embedded_postgres import embedded_server, running_server
from model.encryption import Keyring
from model.errors import ExitplaneError
from model.settings import read_settings

Result = TypeVar("Result")


class NoDatabase(ExitplaneError):
    code = "no_database"


@asynccontextmanager
async def open_database(keyring: Keyring | None = None) -> AsyncIterator[Database]:
    """Open the database of EXITPLANE_DATABASE_URL, or the embedded one that runs in the state folder.

    Raises DatabaseUnreachable where there is neither.
    """
    settings = read_settings()
    url = settings.database_url or running_server(settings.state_dir)
    if url is None:
        raise DatabaseUnreachable(
            f"no control plane runs in {settings.state_dir}",
            hint="start `exitplane serve`, or set EXITPLANE_STATE_DIR or EXITPLANE_DATABASE_URL",
        )
    async with connect(url, keyring) as database:
        yield database


@asynccontextmanager
async def connect(url: str, keyring: Keyring | None = None) -> AsyncIterator[Database]:
    """Open the database of a URL, and close it at the end of the block."""
    database = Database(url, keyring=keyring, pool_size=1)
    try:
        yield database
    finally:
        await database.close()


@contextmanager
def database_url(*, create: bool = False) -> Iterator[str]:
    """Yield the URL of this host's database; run the embedded server while the block lasts, unless it runs already.

    Raises NoDatabase where there is none, unless `create` asks for an empty one.
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
            hint="set EXITPLANE_STATE_DIR or EXITPLANE_DATABASE_URL, or create one with `exitplane db upgrade`",
        )


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(coroutine)
