"""Tests of `exitplane db` with the embedded database, while no control plane runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.db import db
from cli.local_database import NoDatabase
from model.schema_version import newest_migration


def test_check_refuses_a_folder_without_a_database(monkeypatch, tmp_path):
    monkeypatch.setenv("EXITPLANE_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("EXITPLANE_DATABASE_URL", raising=False)
    done = CliRunner().invoke(db, ["check"])
    assert isinstance(done.exception, NoDatabase)
    assert "exitplane db upgrade" in done.exception.hint


@pytest.mark.postgres
@pytest.mark.slow
def test_check_accepts_the_embedded_database_after_upgrade():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXITPLANE_")}

    def run(command: str, state: Path) -> str:
        argv = (sys.executable, "-m", "cli", "db", command)
        environment = {**kept, "EXITPLANE_STATE_DIR": str(state)}
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=100, check=True).stdout

    # not pytest's temporary folder: root's server runs as another user, who may not enter it
    with tempfile.TemporaryDirectory(prefix="exitplane-") as folder:
        Path(folder).chmod(0o755)
        assert run("upgrade", Path(folder)) == f"migrated from none to {newest_migration()}\n"
        assert run("check", Path(folder)) == f"the database is at migration {newest_migration()}\n"
