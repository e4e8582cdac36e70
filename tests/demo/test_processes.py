"""Tests of the processes of a lab."""

import os
import signal
import subprocess
import sys
import time
from uuid import uuid4

import pytest

from demo.errors import LabError
from demo.processes import (
    MARK,
    ProcessGroup,
    StopStage,
    end_pids,
    end_processes_with_mark,
    find_processes_with_mark,
    in_namespace,
    interruptible,
    shielded,
)
from tests.demo.marks import wait_for_marked

DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


@pytest.fixture
def mark():
    mark = f"test-{uuid4()}"
    yield mark
    end_processes_with_mark(mark, timeout_s=0)


@pytest.fixture
def processes(mark, tmp_path):
    return ProcessGroup(mark, tmp_path)


def wait_for_line(child, line):
    deadline = time.monotonic() + 60
    while line not in child.tail():
        assert time.monotonic() < deadline, child.tail()
        time.sleep(0.01)


def test_children_have_sessions_of_their_own_and_end(processes, mark):
    child = processes.start("sleeper", StopStage.PAGE, ("sleep", "600"))
    assert os.getsid(child.pid) == child.pid
    assert wait_for_marked(mark, 1) == [child.pid]
    processes.end_all()
    assert child.process.returncode == -signal.SIGTERM
    assert find_processes_with_mark(mark) == []


def test_orphans_of_children_end_too(processes, mark):
    child = processes.start("parent", StopStage.AGENT, ("sh", "-c", "sleep 600 & echo started; wait"))
    wait_for_line(child, "started")
    processes.kill(child)
    wait_for_marked(mark, 1)
    processes.end_all()
    assert find_processes_with_mark(mark) == []
    processes.end_all()


def test_child_that_ignores_sigterm_is_killed_after_timeout(processes):
    child = processes.start("deaf", StopStage.AGENT, (sys.executable, "-c", DEAF))
    wait_for_line(child, "deaf")
    processes.end([child], timeout_s=0.2)
    assert child.process.returncode == -signal.SIGKILL


def test_end_pids_kills_processes_that_ignore_sigterm(processes, mark):
    child = processes.start("deaf", StopStage.AGENT, (sys.executable, "-c", DEAF))
    wait_for_line(child, "deaf")
    end_pids([child.pid, 2**22 - 1], timeout_s=0.2)
    assert child.process.wait(60) == -signal.SIGKILL


def test_later_stages_end_first(processes, tmp_path):
    script = "trap 'date +%s%N >>order; echo {0} >>order; exit' TERM; echo ready; while :; do sleep 0.05; done"
    children = [
        processes.start(stage.name, stage, ("sh", "-c", script.format(stage.name)))
        for stage in (StopStage.AGENT, StopStage.TUNNEL, StopStage.CONTROL_PLANE)
    ]
    for child in children:
        wait_for_line(child, "ready")
    processes.end_all()
    ended = (tmp_path / "order").read_text().split()[1::2]
    assert ended == ["AGENT", "CONTROL_PLANE", "TUNNEL"]


def test_mark_with_the_same_prefix_does_not_match(processes, mark):
    other = ProcessGroup(f"{mark}-other", processes._folder)
    child = other.start("other", StopStage.PAGE, ("sleep", "600"))
    try:
        assert find_processes_with_mark(mark) == []
        processes.end_all()
        assert child.alive
    finally:
        other.end_all()


def test_ended_child_is_reported_with_its_log(processes):
    child = processes.start("talker", StopStage.PAGE, ("sh", "-c", "echo no such thing; exit 3"))
    child.process.wait()
    with pytest.raises(LabError, match="talker ended with status 3\nno such thing"):
        child.check()


def test_settings_of_another_exitplane_are_not_inherited(processes, mark, monkeypatch):
    monkeypatch.setenv("EXITPLANE_DATABASE_URL", "postgresql://production")
    environment = processes.environment({"EXITPLANE_STATE_DIR": "/here"})
    own = {name: value for name, value in environment.items() if name.startswith("EXITPLANE_")}
    assert own == {"EXITPLANE_STATE_DIR": "/here", MARK: mark}


def test_failed_command_is_reported_with_its_output(processes):
    assert processes.run(("echo", "fine")) == "fine\n"
    with pytest.raises(LabError, match="status 4\nbroken"):
        processes.run(("sh", "-c", "echo broken >&2; exit 4"))
    with pytest.raises(LabError, match=r"longer than 0\.1 s"):
        processes.run(("sleep", "9"), timeout_s=0.1)


def test_commands_run_in_the_given_namespace():
    assert in_namespace(None, ("true",)) == ["true"]
    assert in_namespace("there", ("true",)) == ["ip", "netns", "exec", "there", "true"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_only_the_first_signal_interrupts(number):
    cleaned_up = []

    def work():
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)
            cleaned_up.append(True)

    with pytest.raises(KeyboardInterrupt), interruptible():
        work()
    assert cleaned_up


def test_shielded_block_cannot_be_interrupted():
    before = signal.getsignal(signal.SIGTERM)
    with shielded():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_children_of_a_shielded_block_can_be_interrupted():
    with shielded(), subprocess.Popen(("sleep", "600")) as child:
        child.terminate()
        assert child.wait(60) == -signal.SIGTERM
