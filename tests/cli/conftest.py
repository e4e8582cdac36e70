"""Fixtures: a real server with the API, a client of it, and the command line."""

from __future__ import annotations

import asyncio
import functools
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest

from cli.main import main
from tests.api_server import ApiInstance, api, authority, plane

__all__ = ["api", "authority", "plane"]


@dataclass(frozen=True)
class CommandResult:
    status: int
    out: str
    err: str


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
    """The environment of every command: folders of its own, and a wide terminal without colours."""
    folders = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "EXITPLANE_STATE_DIR": str(tmp_path / "state")}
    return folders | {"COLUMNS": "200", "NO_COLOR": "1"}


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
