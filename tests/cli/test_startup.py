"""Tests of the imports of each command, because an unneeded import slows every call."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from cli.main import _COMMANDS, _load

ROOT = Path(__file__).parents[2]
HEAVY = {
    *(
        "fastapi",
        "starlette",
        "uvicorn",
        "sse_starlette",
        "sqlalchemy",
        "sqlmodel",
        "alembic",
        "asyncpg",
        "aiohttp",
        "httpx",
    ),
    *("grpc", "google", "envoy", "betterproto2", "structlog", "cryptography", "argon2", "jwt", "authlib", "pyotp"),
    *("opentelemetry", "uvloop", "pycountry", "agent", "keeper", "dns", "apprise", "requests"),
}
"""Packages of the server, and packages that are slow to import."""
PROGRAM = """
import atexit, pathlib, sys
listed = pathlib.Path(sys.argv.pop())
atexit.register(lambda: listed.write_text(chr(10).join(sys.modules)))
sys.argv[0] = "exitplane"
from cli.main import main
main()
"""
"""A program that runs a command, and writes the imported modules to the file of its last argument."""


async def imported_by(tmp_path, *arguments, **settings):
    """Run a command in a process of its own, and return status, output, errors, and the imported modules."""
    listed = tmp_path / "modules"
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "COLUMNS": "200", "NO_COLOR": "1", **settings}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, *arguments, str(listed)),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode(), set(listed.read_text().splitlines())


def heavy(modules):
    return {name for name in modules if name.partition(".")[0] in HEAVY}


async def test_help_imports_no_command(tmp_path):
    status, out, _, modules = await imported_by(tmp_path, "--help")
    assert (status, "whoami" in out) == (0, True)
    assert not heavy(modules)
    assert not {"pydantic", "asyncio", "client"} & modules
    assert {name for name in modules if name.startswith(("cli.", "api."))} == {"cli.main", "cli.error_exit"}
    assert len(modules) < 400


async def test_completion_of_commands_imports_none(tmp_path):
    asked = {"_EXITPLANE_COMPLETE": "complete_bash", "COMP_WORDS": "exitplane wh", "COMP_CWORD": "1"}
    status, out, _, modules = await imported_by(tmp_path, **asked)
    assert (status, out.split()) == (0, ["whoami"])
    assert not heavy(modules) | ({"rich", "asyncio", "client"} & modules)


async def test_completion_of_options_imports_no_server(tmp_path):
    asked = {"_EXITPLANE_COMPLETE": "complete_bash", "COMP_WORDS": "exitplane get --f", "COMP_CWORD": "2"}
    status, out, _, modules = await imported_by(tmp_path, **asked)
    assert (status, sorted(out.split())) == (0, ["--filter", "--fleet"])
    assert not heavy(modules)


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (("status",), 0, "Exits"),
        (("status", "--json"), 0, '"exits": []'),
        (("get", "exits"), 0, "state_reason"),
        (("get", "pools", "--json"), 0, "[]"),
        (("whoami",), 0, "admin"),
        (("export",), 0, "pools"),
        (("drain", "us-1"), 1, "there is no such exit"),
        (("history", "us-1"), 1, "there is no such exit"),
        (("containers", "list"), 0, "open requests"),
        (("delete", "pools", "us", "--yes"), 1, "there is no such pool"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
async def test_commands_of_the_api_import_no_server(arguments, status, expected, plane, tmp_path):
    given = {"EXITPLANE_API": plane.url, "EXITPLANE_API_KEY": plane.key}
    ended, out, err, modules = await imported_by(tmp_path, *arguments, **given)
    assert (ended, expected in out + err) == (status, True), (out, err)
    assert not heavy(modules)
    assert ("rich.console" in modules) <= (ended == 0 and "--json" not in arguments)
    assert ("yaml" in modules) == (arguments == ("export",))
    # commands that only show values need no schemas; typer imports only pydantic_core for options
    assert not [name for name in modules if name.startswith("api.") and name.endswith(".schemas")]
    assert len(modules) < 500


@pytest.mark.parametrize("name", _COMMANDS)
def test_list_of_commands_matches_their_help(name):
    assert _COMMANDS[name][1] == _load(name).help.split("\n\n")[0].replace("\n", " ")


async def test_client_imports_nothing_of_the_server(tmp_path):
    program = "import sys; from client import Client; Client('http://x'); print(*sys.modules)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    modules = set(out.decode().split())
    assert "client.client" in modules
    assert not heavy(modules) | ({"typer", "rich", "cli"} & modules)


@pytest.mark.slow
async def test_control_plane_imports_no_exporter_of_spans_at_its_start():
    """FastAPI itself imports OpenTelemetry's API, which is small."""
    program = "import sys, cli.control_plane; print(*sys.modules)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    modules = out.decode().split()
    assert "model.telemetry.spans" in modules
    assert not [name for name in modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
