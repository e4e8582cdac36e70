"""Isolation and cleanup of labs on one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from agent.net.processes import start_child
from tests.tunnels import lab

pytestmark = [pytest.mark.tunnels, pytest.mark.timeout(600)]
# it starts a server and a client with the names of every lab, prints their ids, and stays
ANOTHER = """
import sys
from pathlib import Path
from tests.tunnels import lab, providers

with lab.built():
    provider = providers.WireGuardProvider(lab.Processes(Path(sys.argv[1])))
    provider.start()
    providers.connect(provider, provider.processes)
    print(*lab.inhabitants(lab.NET), *lab.inhabitants(lab.EXIT), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def another(wireguard, tmp_path):
    """Give `another()`, which starts a process with its own lab and returns the ids of the processes in it."""
    folder = tmp_path / "another"
    folder.mkdir()
    command = (sys.executable, "-c", ANOTHER, str(folder))
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=lab.ROOT)
    inhabitants = [int(each) for each in process.stdout.readline().split()]
    assert len(inhabitants) == 2
    yield process, inhabitants
    for each in (process.stdin, process.stdout):
        each.close()
    process.wait()


def serves(provider) -> bool:
    """Return True if the server runs and its control socket exists."""
    command = ("ip", "netns", "exec", lab.NET, "wg", "show", provider.interface, "public-key")
    return subprocess.run(command, capture_output=True, check=False).returncode == 0 and provider.process.poll() is None


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("how", ["in order", "killed"])
def test_lab_ends_only_its_own_processes(wireguard, another, how):
    process, inhabitants = another
    assert serves(wireguard)
    if how == "killed":
        process.send_signal(signal.SIGKILL)
    else:
        process.stdin.close()
    assert process.wait(lab.COMMAND_S) == (-signal.SIGKILL if how == "killed" else 0)
    lab.wait_for(lambda: not any(map(is_alive, inhabitants)))
    assert serves(wireguard)


def test_lab_restores_namespace_of_thread():
    def namespaces():
        return [Path(f"/proc/thread-self/ns/{each}").readlink() for each in ("mnt", "net")], Path.cwd()

    if (reason := lab.why_no_lab()) is not None:
        pytest.skip(f"no tunnels: {reason}")
    before = namespaces()
    with lab.built():
        assert namespaces()[0][0] != before[0][0]
    assert namespaces() == before


async def test_grpc_keeps_its_namespace_when_child_starts_inside(network, tmp_path):
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with lab.inside(lab.EXIT):  # raises if a thread stays there
        await start_child(("true",), tmp_path, "log").ended.wait()
    await server.stop(None)
