"""Real namespaces and real WireGuard, without a control plane: who is seen on the internet, and what is left afterwards."""

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
from demo.processes import marked
from demo.setup import open_scene
from demo.underlay import choose_underlay_block, remove_underlay, why_no_tunnels
from tests.demo.marks import wait_for_marked

pytestmark = [
    pytest.mark.tunnels,
    pytest.mark.skipif(why_no_tunnels() is not None, reason=f"no tunnels: {why_no_tunnels()}"),
]

SETTINGS = LabSettings(exits=("us", "jp"), tunnels=True, gateway_port=0, api_port=0, xds_port=0)
MARKER = "192.0.2.255"
"""An address that no scene gives to its internet."""
ASK = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=60).read().decode())"
HOLDER = """
import time
from demo.setup import open_scene
from demo.lab import LabSettings
with open_scene(LabSettings(exits=("us",), tunnels=True, gateway_port=0, api_port=0, xds_port=0)) as scene:
    print(scene.plan.index, scene.state_dir, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def scene():
    with open_scene(SETTINGS) as scene:
        scene.start_page()
        yield scene


def ask_from(scene, exit_, url):
    answer = scene.processes.run((sys.executable, "-c", ASK, url), namespace=exit_.namespace)
    return json.loads(answer)["source"]


def traces(index):
    """Everything on this machine that bears the names of demo `index`."""
    own = (f"exitplane{index}-", f"xp{index}-")
    folders = ("/run/netns", "/etc/netns", "/sys/class/net", "/var/run/wireguard")
    files = [path for folder in folders if Path(folder).is_dir() for path in Path(folder).iterdir()]
    routes = subprocess.run(("ip", "route", "show", "table", "all"), capture_output=True, text=True, check=True).stdout
    found = [str(path) for path in files if path.name.startswith(own)]
    return found + [line for line in routes.splitlines() if f"xp{index}-" in line]


def left_of(index):
    """The traces of demo `index` now that it ended; none if another test's scene has the index by now."""
    with Path(f"/run/exitplane/demo-{index}.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return []
        return traces(index)


def test_each_exit_is_seen_with_its_own_address(scene):
    sources = {exit_.country: ask_from(scene, exit_, f"{scene.page_url}/") for exit_ in scene.exits}
    assert sources == {exit_.country: exit_.egress_address for exit_ in scene.exits}
    assert len(set(sources.values())) == 2


def test_this_host_past_the_exits_is_seen_as_itself(scene):
    assert fetch(f"{scene.page_url}/").json()["source"] == scene.host_source


def test_only_the_exits_can_resolve_the_pages_name(scene):
    exit_ = scene.exits[0]
    assert ask_from(scene, exit_, f"http://{PAGE_NAME}/") == exit_.egress_address
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo(PAGE_NAME, 80)


def test_without_its_tunnel_an_exit_reaches_nothing(scene):
    exit_, other = scene.exits
    before = scene.seen()
    exit_.kill_tunnel()
    try:
        assert exit_.tunnel_pid is None
        with pytest.raises(LabError, match="Network is unreachable"):
            ask_from(scene, exit_, f"{scene.page_url}/")
        assert scene.seen() == before
        assert ask_from(scene, other, f"{scene.page_url}/") == other.egress_address
    finally:
        exit_.restore_tunnel()
    assert ask_from(scene, exit_, f"{scene.page_url}/") == exit_.egress_address
    exit_.restore_tunnel()


def test_an_exit_without_a_tunnel_still_reaches_the_host(scene):
    """Its heartbeats have to arrive when its tunnel is down: that is what they tell."""
    exit_ = scene.exits[1]
    exit_.kill_tunnel()
    try:
        with socket.create_server((scene.host_source, 0)) as server:
            connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)"
            port = str(server.getsockname()[1])
            scene.processes.run((sys.executable, "-c", connect, scene.host_source, port), namespace=exit_.namespace)
    finally:
        exit_.restore_tunnel()


def test_an_exit_offers_nothing_on_its_public_address(scene):
    """What it listens on for gateways stands on the underlay alone."""
    for exit_ in scene.exits:
        assert exit_.arguments[exit_.arguments.index("--bind-address") + 1] == str(exit_.site.address)
        assert str(exit_.site.address) != exit_.egress_address


def test_two_scenes_stand_side_by_side(scene):
    with open_scene(SETTINGS) as other:
        other.start_page()
        assert other.plan.index != scene.plan.index
        for one in (scene, other):
            assert [ask_from(one, exit_, f"{one.page_url}/") for exit_ in one.exits] == [
                exit_.egress_address for exit_ in one.exits
            ]


def test_nothing_is_left():
    with open_scene(SETTINGS) as scene:
        scene.start_page()
        index, state_dir, pids = scene.plan.index, scene.state_dir, marked(scene.processes._mark)
        assert len(traces(index)) > 8
        assert len(pids) == 5
        scene.exits[0].kill_tunnel()
    assert not state_dir.exists()
    assert left_of(index) == []
    assert not any(Path("/proc", str(pid)).exists() for pid in pids)


def test_nothing_is_left_when_setting_up_fails_half_way(monkeypatch):
    seen = {}

    def fail(tunnels):
        tunnels[0].start_server()
        tunnels[0].start_client()
        pids = wait_for_marked(tunnels[0].processes._mark, 2)
        seen.update(index=tunnels[0].plan.index, pids=pids)
        raise LabError("no more tunnels today")

    monkeypatch.setattr(setup, "open_tunnels", fail)
    with pytest.raises(LabError, match="no more tunnels today"), open_scene(SETTINGS):
        pass
    assert left_of(seen["index"]) == []
    assert len(seen["pids"]) == 2
    assert not any(Path("/proc", str(pid)).exists() for pid in seen["pids"])


def test_nothing_is_left_after_a_signal():
    script = HOLDER.replace("import time", "import time\nfrom demo.processes import interruptible").replace(
        "with open", "with interruptible(), open"
    )
    with subprocess.Popen(
        (sys.executable, "-c", script), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as holder:
        index, state_dir = holder.stdout.readline().split()
        holder.send_signal(signal.SIGTERM)
        holder.wait(60)
        assert left_of(index) == []
    assert not Path(state_dir).exists()


def marks(namespace):
    """Whether a namespace of this name is there and has the address MARKER."""
    shown = subprocess.run(
        ("ip", "-netns", namespace, "address", "show", "to", MARKER), capture_output=True, text=True, check=False
    )
    return MARKER in shown.stdout


def test_what_a_killed_scene_left_is_swept_by_the_next_holder():
    with subprocess.Popen((sys.executable, "-c", HOLDER), stdout=subprocess.PIPE, text=True) as holder:
        index, state_dir = holder.stdout.readline().split()
        namespace = f"exitplane{index}-internet"
        underlay.ip_batch(namespace, f"address add {MARKER}/32 dev lo")
        assert marks(namespace)
        holder.kill()
    opened = []
    try:
        # The killed scene's index is the first free one, unless another test was faster: then that one swept it.
        for _ in range(3):
            context = open_scene(SETTINGS)
            opened.append((context, context.__enter__()))
            if opened[-1][1].plan.index == int(index):
                break
        assert not marks(namespace)
        assert not Path(state_dir).exists()
    finally:
        for context, _ in reversed(opened):
            context.__exit__(None, None, None)


def test_removing_what_is_not_there_is_fine():
    with setup.claim_instance(remove_underlay) as instance:
        remove_underlay(instance.index)
        remove_underlay(instance.index)


def test_addresses_that_this_machine_uses_itself_are_not_taken(monkeypatch):
    monkeypatch.setattr(underlay, "_own_networks", lambda: [IPv4Network("192.0.2.0/24")])
    assert choose_underlay_block() == IPv4Network("198.18.0.0/24")
    monkeypatch.setattr(underlay, "_own_networks", lambda: [IPv4Network("10.0.0.0/8")])
    assert choose_underlay_block() == IPv4Network("192.0.2.0/24")
    monkeypatch.setattr(underlay, "_own_networks", lambda: [IPv4Network("192.0.0.0/8"), IPv4Network("198.18.0.0/15")])
    with pytest.raises(LabError, match="use --plain"):
        choose_underlay_block()
    monkeypatch.setattr(underlay, "_own_networks", lambda: [IPv4Network("203.0.113.128/25")])
    with pytest.raises(LabError, match=r"203\.0\.113\.0/24.*use --plain"):
        choose_underlay_block()


def test_scenes_own_routes_are_no_hindrance(scene):
    routes = underlay._own_networks()
    assert scene.plan.underlay not in routes
    assert scene.plan.page_network not in routes
    assert all(network.prefixlen >= 8 for network in routes)


def test_missing_tools_are_named(monkeypatch):
    monkeypatch.setattr(underlay.shutil, "which", lambda tool: None if tool == "wireguard-go" else f"/usr/bin/{tool}")
    assert why_no_tunnels() == "wireguard-go is not installed (apt-get install wireguard-go)"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert why_no_tunnels() == "not running as root"
    with pytest.raises(LabError, match="no tunnels can be made: not running as root"):
        setup._choose_mode(True)
    assert setup._choose_mode(None) == (False, "not running as root")
    assert setup._choose_mode(False) == (False, "--plain was asked for")
