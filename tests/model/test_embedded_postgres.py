"""The embedded PostgreSQL has one owner, and the next owner takes it over after a kill."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from model.database import DatabaseUnreachable
from model.embedded_postgres import StateInUse, embedded_server, running_server

pytestmark = pytest.mark.postgres

OWNER = """
import sys, time
from pathlib import Path
from model.embedded_postgres import embedded_server
with embedded_server(Path(sys.argv[1])) as url:
    print(url, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def state() -> Iterator[Path]:
    # not pytest's temporary folder: only its owner may enter that, and as root the server runs as another user
    with tempfile.TemporaryDirectory(prefix="exitplane-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "state"
        if running_server(Path(folder) / "state"):
            with embedded_server(Path(folder) / "state"):
                pass  # stops the server


async def ask(url: str, statement: str):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@contextmanager
def owned_by_another(state: Path) -> Iterator[str]:
    """Run a server in another process, and kill that process."""
    with subprocess.Popen([sys.executable, "-c", OWNER, str(state)], stdout=subprocess.PIPE, text=True) as owner:
        try:
            yield owner.stdout.readline().strip()
        finally:
            owner.kill()


@pytest.mark.slow
async def test_server_has_one_owner_and_is_taken_over_after_a_kill(state):
    with owned_by_another(state) as url:
        await ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        with pytest.raises(StateInUse, match=r"another control plane runs in .*EXITPLANE_STATE_DIR"):
            embedded_server(state).__enter__()
        assert await ask(running_server(state), "SELECT answer FROM kept") == 42
    with embedded_server(state) as taken_over:
        assert await ask(taken_over, "SELECT answer FROM kept") == 42
    assert running_server(state) is None
    with pytest.raises(FileNotFoundError):
        await ask(taken_over, "SELECT 1")
    with owned_by_another(state) as url:
        assert await ask(url, "SELECT answer FROM kept") == 42


def test_no_server_runs_in_an_unused_folder(state):
    assert running_server(state) is None


def test_folder_with_other_content_is_an_error_with_a_hint(state):
    (state / "postgres").mkdir(parents=True)
    (state / "postgres" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(DatabaseUnreachable, match="the embedded PostgreSQL does not start"):
        embedded_server(state).__enter__()
