"""Tests of commands that fail: each prints one line with its hint, and exits with 1."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import asyncpg
import pytest

from model.database import parse_url
from tests.conftest import KEY_SETTING

pytestmark = pytest.mark.slow


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXITPLANE_")}
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        env={**kept, **settings},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("exitplane: ")
    for word in words:
        assert word in done.stderr


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_serve_reports_the_api_port_in_use(taken, tmp_path):
    done = run("serve", EXITPLANE_API_LISTEN=taken, EXITPLANE_STATE_DIR=str(tmp_path))
    assert_refused(done, taken, "EXITPLANE_API_LISTEN")


@pytest.mark.postgres
def test_serve_reports_the_xds_port_in_use(taken, database_url):
    listen = {"EXITPLANE_XDS_LISTEN": taken, "EXITPLANE_API_LISTEN": "127.0.0.1:0"}
    done = run("serve", **listen, **KEY_SETTING, EXITPLANE_DATABASE_URL=database_url)
    assert_refused(done, taken, "EXITPLANE_XDS_LISTEN")


@pytest.mark.parametrize("command", [("serve",), ("db", "check"), ("db", "upgrade")])
def test_unreachable_database_is_reported(command, taken):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    done = run(
        *command,
        EXITPLANE_DATABASE_URL=f"postgresql://nobody@127.0.0.1:{port}/none",
        EXITPLANE_API_LISTEN="127.0.0.1:0",
        EXITPLANE_XDS_LISTEN="127.0.0.1:0",
    )
    assert_refused(done, "PostgreSQL cannot be reached", "EXITPLANE_DATABASE_URL")


@pytest.mark.postgres
@pytest.mark.parametrize("command", [("serve",), ("db", "check")])
async def test_outdated_migration_is_reported(command, database_url):
    name = "behind_" + parse_url(database_url).database
    connection = await asyncpg.connect(database_url)
    await connection.execute(f"CREATE DATABASE {name}")
    try:
        done = run(
            *command,
            EXITPLANE_DATABASE_URL=database_url.replace(parse_url(database_url).database, name),
            EXITPLANE_API_LISTEN="127.0.0.1:0",
            EXITPLANE_XDS_LISTEN="127.0.0.1:0",
        )
        assert_refused(done, "migration none", "exitplane db upgrade")
    finally:
        await connection.execute(f"DROP DATABASE {name}")
        await connection.close()


def test_serve_reports_an_invalid_setting():
    done = run("serve", EXITPLANE_HEARTBEAT_INTERVAL_S="soon")
    assert_refused(done, "EXITPLANE_HEARTBEAT_INTERVAL_S", "'soon'")


def test_status_reports_an_unreachable_api(taken):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert_refused(run("status", "--api", f"http://127.0.0.1:{port}"), str(port), "--api")


def test_agent_reports_a_missing_envoy(tmp_path):
    token = tmp_path / "token"
    token.write_text("x")
    done = run(
        *("agent", "--role", "gateway", "--api", "http://127.0.0.1:1", "--token-file", str(token), "--name", "gw-1"),
        *("--state", str(tmp_path / "state"), "--envoy", str(tmp_path / "no-envoy")),
    )
    assert_refused(done, "no-envoy")


@pytest.mark.parametrize("command", ["serve", "demo", "agent", "bootstrap", "token", "db", "status"])
def test_every_command_has_help(command):
    done = run(command, "--help")
    assert done.returncode == 0
    assert "Usage: exitplane" in done.stdout
