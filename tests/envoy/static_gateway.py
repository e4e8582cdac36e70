"""A real gateway Envoy with the resources of a fleet as static ones; small servers of the test are its exits."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

from model.world import World
from tests.envoy.envoy_process import ADMIN, BOUND_S, EnvoyUnderTest, envoy_process, eventually
from xds.translate import names
from xds.translate.encoding import encode
from xds.translate.json_view import as_json
from xds.translate.scopes import GatewayGroup

_EXTENSION = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.server.says.encode()
        self.send_response(200)
        self.send_header("x-pool", self.server.says)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the library's name

    def do_CONNECT(self):
        self.send_response(200)
        self.send_header("x-pool", self.server.says)
        self.end_headers()
        self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def exits(pools: Iterable[UUID]) -> Iterator[dict[UUID, int]]:
    """Run a server for each pool that answers with the pool's id. Yields their ports."""
    servers = {}
    for pool_id in pools:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
        server.says, server.daemon_threads = str(pool_id), True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers[pool_id] = server
    try:
        yield {pool_id: server.server_address[1] for pool_id, server in servers.items()}
    finally:
        for server in servers.values():
            server.shutdown()
            server.server_close()


def resources(world: World, fleet_id: UUID) -> dict[str, list[dict[str, Any]]]:
    """Return the resources that a fleet's gateways share, by type, as JSON for Envoy."""
    scope, found = GatewayGroup(fleet_id), {}
    for each in sorted(scope.resources(world), key=lambda each: (each.type_url, each.name)):
        found.setdefault(each.type_url, []).append(as_json(each.type_url, encode(scope.translate(world, each))))
    return found


def static_fleet(world: World, fleet_id: UUID, folder: Path, endpoints: dict[UUID, Iterable[int]]) -> dict[str, Any]:
    """Return a fleet as static resources, with exits that speak plain HTTP/1.1.

    The groups of users are read from a file, as an ECDS resource.
    """
    given = resources(world, fleet_id)
    (routes,) = given[names.ROUTE]
    (groups,) = [each for each in given[names.EXTENSION] if each["name"] == names.GROUPS_FILTER]
    file = folder / "groups.json"
    file.write_text(json.dumps({"resources": [{"@type": _EXTENSION, **groups}]}))
    listeners = given.get(names.LISTENER, [])
    for listener in listeners:
        listener["address"]["socket_address"]["port_value"] = 0
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        del manager["rds"]
        manager["route_config"] = routes
        source = manager["http_filters"][1]["config_discovery"]["config_source"]
        del source["ads"]
        source["path_config_source"] = {"path": str(file)}
    clusters = given.get(names.CLUSTER, [])
    for cluster in clusters:
        if not cluster.pop("eds_cluster_config", None):
            continue
        for over_tls in ("transport_socket", "health_checks", "typed_extension_protocol_options", "outlier_detection"):
            del cluster[over_tls]
        cluster["type"] = "STATIC"
        ports = endpoints.get(names.pool_of_cluster(cluster["name"]), ())
        hosts = [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
            for port in ports
        ]
        cluster["load_assignment"] = {"cluster_name": cluster["name"], "endpoints": [{"lb_endpoints": hosts}]}
    return {"listeners": listeners, "clusters": clusters}


@dataclass
class StaticGateway:
    """A running Envoy, and the ports of its listeners by name."""

    envoy: EnvoyUnderTest
    ports: dict[str, int]


@contextmanager
def running(static: dict[str, Any], folder: Path) -> Iterator[StaticGateway]:
    """Run an Envoy with these static resources."""
    bootstrap = {"node": {"id": "test", "cluster": "test"}, "static_resources": static, "admin": ADMIN}
    with envoy_process(bootstrap, folder) as envoy:
        eventually(lambda: len(envoy.ports()) == len(static["listeners"]))
        yield StaticGateway(envoy, envoy.ports())


CLOCK_HEADER = "test-clock"
_SETTABLE_CLOCK = """
local real_time, given_time = os.time, nil
os.time = function() return given_time or real_time() end
%s
local on_request = envoy_on_request
function envoy_on_request(handle)
  given_time = tonumber(handle:headers():get("%s") or "")
  on_request(handle)
end
"""


def with_settable_clock(listeners: Iterable[dict[str, Any]]) -> None:
    """Let requests set the time of the gateway's script in CLOCK_HEADER, in seconds of Unix time."""
    for listener in listeners:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        source = manager["http_filters"][0]["typed_config"]["default_source_code"]
        source["inline_string"] = _SETTABLE_CLOCK % (source["inline_string"], CLOCK_HEADER)


def fetch(port: int, path: str, headers: Iterable[tuple[str, str]] = (), method: str = "GET") -> tuple[int, str]:
    """Send a request on a new connection. Return status and body; for a tunnel, the pool at its end."""
    status, body, _ = exchange(port, path, headers, method)
    return status, body


def exchange(port: int, target: str, headers: Iterable[tuple[str, str]], method: str) -> tuple[int, str, Any]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=BOUND_S)) as connection:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if not any(name.lower() == "host" for name, _ in headers):
            connection.putheader("Host", "127.0.0.1")
        connection.endheaders()
        reply = connection.getresponse()
        if method == "CONNECT" and reply.status == 200:
            return reply.status, reply.headers["x-pool"] or "", reply.headers
        return reply.status, reply.read().decode(), reply.headers


def unused_port() -> tuple[socket.socket, int]:
    """Return a socket that reserves a port without listening, and the port."""
    hole = socket.socket()
    hole.bind(("127.0.0.1", 0))
    return hole, hole.getsockname()[1]
