"""The database of this host's control plane, for commands beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from model.database import Database, DatabaseUnreachable
from model.embedded import running_server
from model.settings import read_settings

Result = TypeVar("Result")


@asynccontextmanager
async def open_database() -> AsyncIterator[Database]:
    """The database that EXITPLANE_DATABASE_URL names, or the embedded one that runs in the state folder."""
    settings = read_settings()
    url = settings.database_url or running_server(settings.state_dir)
    if url is None:
        raise DatabaseUnreachable(
            f"no control plane runs in {settings.state_dir}",
            mend="start `exitplane serve`, or set EXITPLANE_STATE_DIR or EXITPLANE_DATABASE_URL",
        )
    database = Database(url, pool_size=1)
    try:
        yield database
    finally:
        await database.close()


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a command's coroutine."""
    return asyncio.run(coroutine)
