"""Tests of the claim of a demo's index, and of its ports."""

import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from demo import instance as module
from demo.errors import LabError
from demo.instance import choose_ports, claim_instance, temporary_folder
from demo.plan import MAX_INSTANCES
from demo.processes import ProcessGroup, StopStage, find_processes_with_mark
from tests.demo.marks import wait_for_marked

HOLDER = """
import sys, time
from pathlib import Path
from demo import instance
from demo.processes import ProcessGroup, StopStage
instance._lock_folder = lambda: Path(sys.argv[1])
with instance.claim_instance(lambda index: None) as held, instance.temporary_folder(held) as folder:
    child = ProcessGroup(held.mark, folder).start("sleeper", StopStage.PAGE, ("sleep", "600"))
    print(folder, child.pid, held.mark, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def locks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_lock_folder", lambda: tmp_path)
    return tmp_path


def test_first_free_index_is_claimed_and_released():
    with claim_instance(lambda _: None) as first, claim_instance(lambda _: None) as second:
        assert (first.index, second.index) == (0, 1)
        assert first.mark != second.mark
    with claim_instance(lambda _: None) as again:
        assert again.index == 0


def test_seventeenth_demo_is_refused():
    with ExitStack() as stack:
        for _ in range(MAX_INSTANCES):
            stack.enter_context(claim_instance(lambda _: None))
        with pytest.raises(LabError, match="16 demos"):
            stack.enter_context(claim_instance(lambda _: None))


def test_children_do_not_hold_the_lock(tmp_path):
    with claim_instance(lambda _: None) as held:
        child = ProcessGroup(held.mark, tmp_path).start("sleeper", StopStage.PAGE, ("sleep", "600"))
    with claim_instance(lambda _: None) as again:
        assert again.index == held.index
        assert child.process.wait(60) is not None


def test_remains_of_a_killed_holder_are_removed(locks):
    with subprocess.Popen((sys.executable, "-c", HOLDER, str(locks)), stdout=subprocess.PIPE, text=True) as holder:
        folder, pid, mark = holder.stdout.readline().split()
        holder.kill()
    assert wait_for_marked(mark, 1) == [int(pid)]
    swept = []
    with claim_instance(swept.append) as instance:
        assert instance.index == 0
        assert swept == [0]
        assert find_processes_with_mark(mark) == []
        assert not (locks / folder).exists()


def test_demo_of_another_lock_with_the_same_path_is_left_alone(locks, tmp_path):
    with claim_instance(lambda _: None) as elsewhere:
        child = ProcessGroup(elsewhere.mark, tmp_path).start("sleeper", StopStage.PAGE, ("sleep", "600"))
        try:
            # as with a container, whose processes are visible here, but not its files
            elsewhere.lock.rename(locks / "elsewhere.lock")
            with claim_instance(lambda _: None) as here:
                assert here.lock == elsewhere.lock
                assert child.alive
        finally:
            child.process.kill()
            child.process.wait()


def test_temporary_folder_is_removed_at_the_end():
    with claim_instance(lambda _: None) as instance:
        with temporary_folder(instance) as folder:
            (folder / "below").mkdir()
        assert not folder.exists()
        assert instance.lock.read_text() == ""


def test_port_in_use_is_reported_with_its_option():
    with claim_instance(lambda _: None) as instance, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(LabError, match=rf"port {port} on 127.0.0.1 is in use.*--api-port"):
            choose_ports(instance, {"--gateway-port": 0, "--api-port": port})


def test_free_ports_differ_between_options_and_demos():
    wanted = {"--gateway-port": 0, "--api-port": 0, "--xds-port": 0}
    with claim_instance(lambda _: None) as one, claim_instance(lambda _: None) as other:
        ports = [*choose_ports(one, wanted).values(), *choose_ports(other, wanted).values()]
    assert len(set(ports)) == 6
    # Linux uses ports from 32768 on for outgoing connections, so they may be in use later
    assert max(ports) < 32768


def test_lock_folder_of_another_user_is_refused(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr(module.os, "geteuid", lambda: 4242)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(LabError, match="belongs to another user"):
        module._lock_folder()
