"""Tests of the version, which pyproject.toml states."""

from __future__ import annotations

import tomllib
from pathlib import Path

from typer.testing import CliRunner

from cli.main import app
from model.version import exitplane_version

STATED = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["version"]


def test_version_option_prints_the_version_of_pyproject():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"exitplane {STATED}\n")


def test_version_is_0_source_where_exitplane_is_not_installed(monkeypatch):
    monkeypatch.setattr("sys.path", [str(Path(__file__).parent)])
    assert exitplane_version() == "0+source"
