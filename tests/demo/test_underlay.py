"""Tests of the demo's network with real namespaces and WireGuard: source addresses and cleanup."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from demo import setup, underlay
from demo.errors import LabError
from demo.http_client import fetch
from demo.lab import LabSettings
from demo.plan import PAGE_NAME
from demo.processes import find_processes_with_mark
from demo.setup import open_lab
from demo.underlay import choose_underlay_block, find_tunnel_obstacle, remove_underlay
from tests.demo.marks import wait_for_marked

pytestmark = [
    pytest.mark.tunnels,
    pytest.mark.skipif(find_tunnel_obstacle() is not None, reason=f"no tunnels: {find_tunnel_obstacle()}"),
]

SETTINGS = LabSettings(exits=("us", "jp"), tunnels=True, gateway_port=0, api_port=0, xds_port=0)
MARKER = "192.0.2.255"
"""An address that no lab assigns to its internet."""
ASK = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=60).read().decode())"
HOLDER = """
import time
from demo.setup import open_lab
from demo.lab import LabSettings
with open_lab(LabSettings(exits=("us",), tunnels=True, gateway_port=0, api_port=0, xds_port=0)) as lab:
    print(lab.plan.index, lab.state_dir, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def lab():
    with open_lab(SETTINGS) as lab:
        lab.start_page()
        yield lab


def request_from(lab, exit_, url):
    answer = lab.processes.run((sys.executable, "-c", ASK, url), namespace=exit_.namespace)
    return json.loads(answer)["source"]


def list_traces(index):
    """List everything on this machine that has a name of demo `index`."""
    own = (f"exitplane{index}-", f"xp{index}-")
    folders = ("/run/netns", "/etc/netns", "/sys/class/net", "/var/run/wireguard")
    files = [path for folder in folders if Path(folder).is_dir() for path in Path(folder).iterdir()]
    routes = subprocess.run(("ip", "route", "show", "table", "all"), capture_output=True, text=True, check=True).stdout
    found = [str(path) for path in files if path.name.startswith(own)]
    return found + [line for line in routes.splitlines() if f"xp{index}-" in line]


def list_remains(index):
    """List what ended demo `index` left; nothing if another test's lab has the index meanwhile."""
    with Path(f"/run/exitplane/demo-{index}.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return []
        return list_traces(index)


def test_page_sees_the_address_of_each_exit(lab):
    sources = {exit_.country: request_from(lab, exit_, f"{lab.page_url}/") for exit_ in lab.exits}
    assert sources == {exit_.country: exit_.egress_address for exit_ in lab.exits}
    assert len(set(sources.values())) == 2


def test_page_sees_this_host_without_an_exit(lab):
    assert fetch(f"{lab.page_url}/").json()["source"] == lab.host_source


def test_only_exits_resolve_the_pages_name(lab):
    exit_ = lab.exits[0]
    assert request_from(lab, exit_, f"http://{PAGE_NAME}/") == exit_.egress_address
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo(PAGE_NAME, 80)


def test_exit_without_tunnel_reaches_nothing(lab):
    exit_, other = lab.exits
    before = lab.count_requests()
    exit_.kill_tunnel()
    try:
        assert exit_.tunnel_pid is None
        with pytest.raises(LabError, match="Network is unreachable"):
            request_from(lab, exit_, f"{lab.page_url}/")
        assert lab.count_requests() == before
        assert request_from(lab, other, f"{lab.page_url}/") == other.egress_address
    finally:
        exit_.restore_tunnel()
    assert request_from(lab, exit_, f"{lab.page_url}/") == exit_.egress_address
    exit_.restore_tunnel()


def test_exit_without_tunnel_still_reaches_the_host(lab):
    """Heartbeats must arrive while the tunnel is down, because they report it."""
    exit_ = lab.exits[1]
    exit_.kill_tunnel()
    try:
        with socket.create_server((lab.host_source, 0)) as server:
            connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)"
            port = str(server.getsockname()[1])
            lab.processes.run((sys.executable, "-c", connect, lab.host_source, port), namespace=exit_.namespace)
    finally:
        exit_.restore_tunnel()


def test_exit_listens_only_on_the_underlay(lab):
    """The egress address has no listener."""
    for exit_ in lab.exits:
        assert exit_.arguments[exit_.arguments.index("--bind-address") + 1] == str(exit_.site.address)
        assert str(exit_.site.address) != exit_.egress_address


def test_two_labs_run_at_once(lab):
    with open_lab(SETTINGS) as other:
        other.start_page()
        assert other.plan.index != lab.plan.index
        for one in (lab, other):
            assert [request_from(one, exit_, f"{one.page_url}/") for exit_ in one.exits] == [
                exit_.egress_address for exit_ in one.exits
            ]


def test_closed_lab_leaves_nothing():
    with open_lab(SETTINGS) as lab:
        lab.start_page()
        index, state_dir, pids = lab.plan.index, lab.state_dir, find_processes_with_mark(lab.processes._mark)
        assert len(list_traces(index)) > 8
        assert len(pids) == 5
        lab.exits[0].kill_tunnel()
    assert not state_dir.exists()
    assert list_remains(index) == []
    assert not any(Path("/proc", str(pid)).exists() for pid in pids)


def test_failed_setup_leaves_nothing(monkeypatch):
    created = {}

    def fail(tunnels):
        tunnels[0].start_server()
        tunnels[0].start_client()
        pids = wait_for_marked(tunnels[0].processes._mark, 2)
        created.update(index=tunnels[0].plan.index, pids=pids)
        raise LabError("no more tunnels today")

    monkeypatch.setattr(setup, "open_tunnels", fail)
    with pytest.raises(LabError, match="no more tunnels today"), open_lab(SETTINGS):
        pass
    assert list_remains(created["index"]) == []
    assert len(created["pids"]) == 2
    assert not any(Path("/proc", str(pid)).exists() for pid in created["pids"])


def test_signal_leaves_nothing():
    script = HOLDER.replace("import time", "import time\nfrom demo.processes import interruptible").replace(
        "with open", "with interruptible(), open"
    )
    with subprocess.Popen(
        (sys.executable, "-c", script), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as holder:
        index, state_dir = holder.stdout.readline().split()
        holder.send_signal(signal.SIGTERM)
        holder.wait(60)
        assert list_remains(index) == []
    assert not Path(state_dir).exists()


def has_marker(namespace):
    """Return True if a namespace of this name exists and has the address MARKER."""
    shown = subprocess.run(
        ("ip", "-netns", namespace, "address", "show", "to", MARKER), capture_output=True, text=True, check=False
    )
    return MARKER in shown.stdout


def test_next_holder_removes_the_remains_of_a_killed_lab():
    with subprocess.Popen((sys.executable, "-c", HOLDER), stdout=subprocess.PIPE, text=True) as holder:
        index, state_dir = holder.stdout.readline().split()
        namespace = f"exitplane{index}-internet"
        underlay.ip_batch(namespace, f"address add {MARKER}/32 dev lo")
        assert has_marker(namespace)
        holder.kill()
    opened = []
    try:
        # the killed lab's index is the first free one, unless another test has claimed and cleaned it meanwhile
        for _ in range(3):
            context = open_lab(SETTINGS)
            opened.append((context, context.__enter__()))
            if opened[-1][1].plan.index == int(index):
                break
        assert not has_marker(namespace)
        assert not Path(state_dir).exists()
    finally:
        for context, _ in reversed(opened):
            context.__exit__(None, None, None)


def test_remove_underlay_can_be_repeated():
    with setup.claim_instance(remove_underlay) as instance:
        remove_underlay(instance.index)
        remove_underlay(instance.index)


def test_networks_of_this_machine_are_avoided(monkeypatch):
    monkeypatch.setattr(underlay, "_list_networks", lambda: [IPv4Network("192.0.2.0/24")])
    assert choose_underlay_block() == IPv4Network("198.18.0.0/24")
    monkeypatch.setattr(underlay, "_list_networks", lambda: [IPv4Network("10.0.0.0/8")])
    assert choose_underlay_block() == IPv4Network("192.0.2.0/24")
    monkeypatch.setattr(underlay, "_list_networks", lambda: [IPv4Network("192.0.0.0/8"), IPv4Network("198.18.0.0/15")])
    with pytest.raises(LabError, match="use --plain"):
        choose_underlay_block()
    monkeypatch.setattr(underlay, "_list_networks", lambda: [IPv4Network("203.0.113.128/25")])
    with pytest.raises(LabError, match=r"203\.0\.113\.0/24.*use --plain"):
        choose_underlay_block()


def test_routes_of_labs_are_ignored(lab):
    routes = underlay._list_networks()
    assert lab.plan.underlay not in routes
    assert lab.plan.page_network not in routes
    assert all(network.prefixlen >= 8 for network in routes)


def test_missing_tools_are_named(monkeypatch):
    monkeypatch.setattr(underlay.shutil, "which", lambda tool: None if tool == "wireguard-go" else f"/usr/bin/{tool}")
    assert find_tunnel_obstacle() == "wireguard-go is not installed (apt-get install wireguard-go)"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert find_tunnel_obstacle() == "not running as root"
    with pytest.raises(LabError, match="tunnels cannot be created: not running as root"):
        setup._choose_mode(True)
    assert setup._choose_mode(None) == (False, "not running as root")
    assert setup._choose_mode(False) == (False, "--plain was given")
