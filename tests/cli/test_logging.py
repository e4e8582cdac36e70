"""The log of a process: where it goes, its fields, and levels that change while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.control_plane import change_levels
from model.log_levels import LogLevels
from model.settings import BadSettings, Settings

ROOT = Path(__file__).parents[2]
PROGRAM = """
import logging, structlog
from cli.logging import configure_logging
from model.log_levels import LogLevels
levels = LogLevels("info")
configure_logging(levels=levels)
log = structlog.get_logger()
log.debug("part.hidden")
log.info("part.shown", count=1)
levels.change("error,__main__=debug")
log.debug("part.debugged")
levels.change("error")
log.warning("part.silenced")
try:
    raise ValueError("bad")
except ValueError:
    log.exception("part.failed")
logging.getLogger("library").warning("slow %s", "disk")
logging.getLogger("library").info("chatter")
"""


@pytest.fixture(scope="module")
def lines():
    """The events of a program, after its output was checked to be JSON on standard output alone."""
    done = subprocess.run((sys.executable, "-c", PROGRAM), cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_log_is_json_with_module_and_level(lines):
    shown = lines[0]
    assert shown.pop("timestamp").endswith("Z")
    assert shown == {"event": "part.shown", "count": 1, "level": "info", "logger": "__main__"}


def test_levels_of_modules_change_while_it_runs(lines):
    assert [line["event"] for line in lines] == ["part.shown", "part.debugged", "part.failed", "slow disk"]


def test_errors_have_their_traceback_and_libraries_their_name(lines):
    assert "ValueError: bad" in lines[2]["exception"]
    assert (lines[2]["level"], lines[3]["level"], lines[3]["logger"]) == ("error", "warning", "library")


def test_level_file_is_read_again_over_the_setting(tmp_path):
    path, levels = tmp_path / "levels", LogLevels()
    settings = Settings(log_level="warning,api=info", log_level_file=path)
    with pytest.raises(BadSettings, match="EXITPLANE_LOG_LEVEL_FILE"):
        settings.read_log_levels()
    path.write_text("keeper=debug\n")
    change_levels(settings, levels)
    assert [levels.allows(*each) for each in (("keeper", "debug"), ("api", "info"), ("xds", "info"))] == [1, 1, 0]
    path.write_text("keeper=loud\n")
    change_levels(settings, levels)
    assert levels.allows("keeper", "debug")
