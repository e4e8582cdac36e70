"""The supervisor with a real Envoy: start, takeover, replacement and restart."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from agent.config.state_dir import StateDir
from agent.config.status import HealthState, StatusBoard
from agent.envoy.process import find_orphan, spawn
from agent.envoy.supervisor import BootstrapRefused, EnvoyCommand, EnvoyMissing, EnvoySupervisor, find_envoy

pytestmark = pytest.mark.envoy

PATIENCE_S = 60
LIVE = {"admin": {"address": {"pipe": {"path": "admin.sock"}}}}
"""A bootstrap that makes Envoy live at once."""


@pytest.fixture
def folder(tmp_path):
    state = StateDir(tmp_path / "state")
    with state.locked():
        yield state


def command(bootstrap=LIVE, *arguments: str, ends_with_agent: bool = False) -> EnvoyCommand:
    text = bootstrap if isinstance(bootstrap, str) else json.dumps(bootstrap)
    return EnvoyCommand(find_envoy(None), ("--concurrency", "1", *arguments), text, ends_with_agent)


@pytest.fixture
async def supervise(folder):
    """A function `supervise(command)` that runs a supervisor and returns it, its board and its task."""
    begun = []

    def begin(command: EnvoyCommand):
        board = StatusBoard()
        supervisor = EnvoySupervisor(command, folder, board)
        begun.append((supervisor, asyncio.create_task(supervisor.run())))
        return supervisor, board, begun[-1][1]

    yield begin
    for supervisor, task in begun:
        task.cancel()
        with suppress(asyncio.CancelledError, BootstrapRefused, EnvoyMissing):
            await task
        await supervisor.stop()


def record(folder: StateDir) -> dict | None:
    text = folder.read("envoy.json")
    return text and json.loads(text)


def runs_in(pid: int) -> Path:
    return Path(f"/proc/{pid}/cwd").readlink()


async def up(board: StatusBoard, until):
    await until(lambda: board.report.envoy is HealthState.UP, timeout_s=PATIENCE_S)


async def test_envoy_runs_in_state_folder_in_own_session(supervise, folder, until):
    supervisor, board, _ = supervise(command())
    await up(board, until)
    pid = record(folder)["pid"]

    assert runs_in(pid) == folder.path
    assert os.getsid(pid) == pid
    assert await supervisor.admin.is_live()


async def test_dead_envoy_is_restarted(supervise, folder, until):
    _, board, _ = supervise(command())
    await up(board, until)
    first = record(folder)["pid"]
    os.kill(first, signal.SIGKILL)
    await until(lambda: board.report.envoy is HealthState.DOWN)
    await up(board, until)

    assert board.report.starts == 2
    assert record(folder)["pid"] != first


async def test_stop_ends_envoy_and_updates_status(supervise, folder, until, is_running):
    supervisor, board, task = supervise(command())
    await up(board, until)
    pid = record(folder)["pid"]
    task.cancel()
    await supervisor.stop()

    assert not is_running(pid)
    assert (board.report.envoy, record(folder), supervisor.admin) == (HealthState.DOWN, None, None)


async def test_envoy_that_ignores_sigterm_is_killed(supervise, folder, until, is_running):
    supervisor, board, task = supervise(command())
    await up(board, until)
    pid = record(folder)["pid"]
    os.kill(pid, signal.SIGSTOP)
    task.cancel()
    await supervisor.stop(timeout_s=0.05)

    assert not is_running(pid)


@pytest.mark.parametrize("bootstrap", ['{"node": 1}', "no json", '{"static_resources": {"listeners": [{}]}}'])
async def test_refused_bootstrap_raises_one_line_error(supervise, folder, bootstrap):
    _, _, task = supervise(command(bootstrap))

    with pytest.raises(BootstrapRefused) as refused:
        async with asyncio.timeout(PATIENCE_S):
            await task
    line = str(refused.value)
    assert line.startswith("Envoy ended with status 1: ")
    assert line.endswith(f"read {folder.path}/envoy.log")
    assert "\n" not in line


async def test_missing_envoy_is_named(supervise, tmp_path):
    with pytest.raises(EnvoyMissing, match=r"there is no Envoy at /no/envoy; .*--envoy"):
        find_envoy(Path("/no/envoy"))

    (tmp_path / "envoy").write_text("no program")
    (tmp_path / "envoy").chmod(0o755)
    _, _, task = supervise(EnvoyCommand(tmp_path / "envoy", (), "{}", ends_with_agent=False))
    with pytest.raises(EnvoyMissing, match="cannot be started"):
        await task


# -- an Envoy without an agent ------------------------------------------------------------------------------------------


async def orphan(supervise, until, command: EnvoyCommand) -> int:
    """Start an Envoy, end its supervisor without stopping it, and return its process id."""
    supervisor, board, task = supervise(command)
    await up(board, until)
    task.cancel()
    pid = supervisor._process.pid
    supervisor._process = None
    return pid


async def test_envoy_of_gateway_is_taken_over(supervise, folder, until):
    pid = await orphan(supervise, until, command())
    _, board, _ = supervise(command())
    await up(board, until)
    assert record(folder)["pid"] == pid

    # the new agent is not its parent, and still notices its end
    os.kill(pid, signal.SIGKILL)
    await until(lambda: board.report.starts == 2, timeout_s=PATIENCE_S)
    assert record(folder)["pid"] != pid


@pytest.mark.parametrize(
    "other",
    [command({**LIVE, "node": {"id": "other"}}), command(LIVE, "--drain-time-s", "2"), command(ends_with_agent=True)],
)
async def test_envoy_with_other_command_is_replaced(supervise, folder, until, other, is_running):
    pid = await orphan(supervise, until, command())
    _, board, _ = supervise(other)
    await up(board, until)

    assert record(folder)["pid"] != pid
    assert not is_running(pid)


async def test_foreign_process_with_recorded_id_is_not_taken_over(folder, tmp_path):
    elsewhere = StateDir(tmp_path / "elsewhere")
    elsewhere.path.mkdir()
    stranger = spawn(["sleep", "60"], folder, ends_with_agent=False)
    other_folder = spawn(["sh", "-c", "sleep 60", "bootstrap.json"], elsewhere, ends_with_agent=False)

    assert find_orphan(stranger.pid, folder) is None
    assert find_orphan(other_folder.pid, folder) is None
    assert find_orphan(2**22 + 1, folder) is None
    assert find_orphan(-1, folder) is None
    for process in (stranger, other_folder):
        await process.end(5)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": "x"}', '{"pid": null}'])
async def test_invalid_envoy_json_is_ignored(supervise, folder, until, content):
    folder.write("envoy.json", content)
    _, board, _ = supervise(command())

    await up(board, until)


async def test_long_log_is_rotated(supervise, folder, until):
    with (folder.path / "envoy.log").open("w") as log:
        log.truncate(17 * 1024 * 1024)
    _, board, _ = supervise(command())
    await up(board, until)

    assert (folder.path / "envoy.log.1").stat().st_size == 17 * 1024 * 1024
    assert (folder.path / "envoy.log").stat().st_size < 1024 * 1024
