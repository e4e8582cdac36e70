"""A second client beside Envoy: gRPC's own, which resolves, balances and speaks state-of-the-world by itself.

The World, its snapshots, rollouts and streams are the plane's own. Only what a pool, a listener and its routes are translated
to differs, since gRPC wants an `api_listener` and backends without TLS.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from envoy_data_plane.envoy.config.cluster.v3 import (
    Cluster,
    ClusterDiscoveryType,
    ClusterEdsClusterConfig,
    ClusterLbPolicy,
)
from envoy_data_plane.envoy.config.core.v3 import Locality as EnvoyLocality
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.config.listener.v3 import ApiListener, Listener
from envoy_data_plane.envoy.config.route.v3 import (
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager, Rds

from model import authority as authorities
from model.authority import KeyPair
from model.repositories import rollout
from model.unit_of_work import write
from tests.server.fault_proxy import before_port
from xds.translate import names
from xds.translate.encoding import pack
from xds.translate.endpoints import is_offered
from xds.translate.http import ads_source, http_filter, tcp_address

pytestmark = pytest.mark.postgres
CALLER = Path(__file__).with_name("grpc_caller.py")
METHOD = "/greeter.Greeter/Hello"
TARGET = f"xds:///{names.GATEWAY_LISTENER}"
BOUND_S = 45.0


# -- what gRPC's client is given ---------------------------------------------------------------------------------------


def api_listener(_) -> Listener:
    manager = HttpConnectionManager(
        rds=Rds(route_config_name=names.GATEWAY_ROUTES, config_source=ads_source()),
        http_filters=[http_filter("envoy.filters.http.router", Router())],
    )
    return Listener(name=names.GATEWAY_LISTENER, api_listener=ApiListener(api_listener=pack(manager)))


def routes_to_the_last(pools) -> RouteConfiguration:
    """Everything goes to the pool whose name is the last one."""
    cluster = names.pool_cluster(max(pools, key=lambda pool: pool.name))
    route = Route(match=RouteMatch(prefix=""), route=RouteAction(cluster=cluster))
    host = VirtualHost(name="all", domains=["*"], routes=[route])
    return RouteConfiguration(name=names.GATEWAY_ROUTES, virtual_hosts=[host])


def plain_cluster(pool) -> Cluster:
    """A cluster whose bytes change with the pool's name, by its timeout."""
    return Cluster(
        name=names.pool_cluster(pool),
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=ads_source()),
        lb_policy=ClusterLbPolicy.ROUND_ROBIN,
        connect_timeout=timedelta(seconds=len(pool.name)),
    )


def plain_endpoints(pool, exits, _=None) -> ClusterLoadAssignment:
    """Backends in one locality with a weight: gRPC ignores those without."""
    offered = [
        LbEndpoint(endpoint=Endpoint(address=tcp_address(each.endpoint, each.port)))
        for each in exits
        if is_offered(each)
    ]
    place = LocalityLbEndpoints(locality=EnvoyLocality(region="here"), load_balancing_weight=1, lb_endpoints=offered)
    return ClusterLoadAssignment(cluster_name=names.pool_cluster(pool), endpoints=[place] if offered else [])


@pytest.fixture(autouse=True)
def translation(monkeypatch) -> None:
    for name, function in {
        "translate_gateway_listener": api_listener,
        "translate_gateway_routes": routes_to_the_last,
        "translate_pool_cluster": plain_cluster,
        "translate_endpoints": plain_endpoints,
    }.items():
        monkeypatch.setattr(f"xds.translate.scopes.{name}", function)


@pytest.fixture(autouse=True)
def named_localhost(monkeypatch) -> None:
    """gRPC's client checks the name that it dials, and its bootstrap has no word for another one."""

    def issue(authority, now: datetime) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        san = [x509.DNSName("localhost")]
        signed = authorities._sign_leaf(authority, key.public_key(), "localhost", san, now)
        return KeyPair(signed, authorities._key_pem(key))

    monkeypatch.setattr("xds.server.server.issue_server", issue)


# -- backends and caller -----------------------------------------------------------------------------------------------


@pytest.fixture
async def backends():
    """`backends[name]`: the port of a server whose only answer is its name."""
    servers, ports = [], {}
    for name in ("alice", "bob", "carol"):

        async def hello(_request, _context, name=name):
            return name.encode()

        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler = grpc.unary_unary_rpc_method_handler(hello)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("greeter.Greeter", {"Hello": handler})])
        ports[name] = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
    yield ports
    for server in servers:
        await server.stop(None)


class Caller:
    """The process with gRPC's client."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def call(self, target: str = TARGET) -> dict[str, str]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{target}\n".encode())
        async with asyncio.timeout(BOUND_S):
            line = await self._process.stdout.readline()
        return json.loads(line)

    async def reaches(self, name: str) -> bool:
        answer = await self.call()
        assert answer["status"] == "OK", answer  # on the way from one to the other, no call fails
        return answer["body"] == name


@pytest.fixture
def calling(tmp_path, authority, plane):
    """`async with calling(port) as caller`: gRPC's client with the gateway's certificate."""
    from tests.server.conftest import certify  # noqa: PLC0415

    @asynccontextmanager
    async def start(port: int):
        pair = certify(authority, plane.identity)
        files = {
            "certificate_file": pair.certificate_pem,
            "private_key_file": pair.key_pem,
            "ca_certificate_file": authority.certificate_pem,
        }
        for name, pem in files.items():
            (tmp_path / name).write_text(pem)
        credentials = {"type": "tls", "config": {name: str(tmp_path / name) for name in files}}
        server = {
            "server_uri": f"localhost:{port}",
            "channel_creds": [credentials],
            "server_features": ["xds_v3"],
        }
        bootstrap = {"xds_servers": [server], "node": {"id": "grpc"}}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(CALLER),
            env={"GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap), "PATH": "", "GRPC_VERBOSITY": "NONE"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield Caller(process)
        finally:
            process.kill()
            await process.wait()
            process._transport.close()

    return start


async def offer(plane, country: str, port: int) -> int:
    return await plane.change(plane.exits[country], endpoint="127.0.0.1", port=port)


# -- tests -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_grpc_client_finds_that_a_listener_does_not_exist(plane, server, calling):
    async with calling(server.ports[0]) as caller:
        answer = await caller.call("xds:///nobody")
    assert answer["status"] == "UNAVAILABLE"
    assert "nobody" in answer["details"]
    assert "does not exist" in answer["details"]


async def test_a_grpc_client_is_told_that_its_listener_is_no_more(plane, server, calling, backends, until):
    await offer(plane, "us", backends["alice"])
    async with calling(server.ports[0]) as caller:
        await until(lambda: caller.reaches("alice"))
        async with write(plane.database) as unit:  # it is the last of its fleet
            await rollout.approve(unit, plane.fleet.id)
        await plane.remove(plane.listener)

        async def is_told():
            answer = await caller.call()
            return answer["status"] == "UNAVAILABLE" and "does not exist" in answer["details"]

        await until(is_told)


async def test_a_grpc_client_calls_through_what_it_is_streamed_and_follows_changes(
    plane, server, calling, backends, synced, until
):
    await offer(plane, "us", backends["alice"])
    await offer(plane, "de", backends["carol"])
    async with calling(server.ports[0]) as caller:
        await until(lambda: caller.reaches("alice"))
        await offer(plane, "us", backends["bob"])  # endpoints
        await until(lambda: caller.reaches("bob"))
        await plane.change(plane.pools["us"], name="us-east")  # its cluster, and with it the endpoints
        await offer(plane, "us", backends["alice"])
        await until(lambda: caller.reaches("alice"))
        # a client that has moved on asks for the old cluster no more, and nobody else could try its change
        await until(lambda: not server.publisher.rolling_out())
        await plane.change(plane.pools["de"], name="zz")  # routes and cluster
        await until(lambda: caller.reaches("carol"))
        await until(lambda: not server.publisher.rolling_out())

        async def all_accepted():
            standing = await synced(plane.gateway.id)
            return len(standing) == 4 and all(accepted for _, accepted, _ in standing.values())

        await until(all_accepted)


async def test_a_grpc_client_goes_on_without_the_control_plane_and_follows_it_again_when_it_is_back(
    plane, server, calling, backends, until
):
    await offer(plane, "us", backends["alice"])
    async with before_port(server.ports[0]) as proxy, calling(proxy.port) as caller:
        await until(lambda: caller.reaches("alice"))
        proxy.cut()
        await until(lambda: server.publisher.streams == 0)
        await offer(plane, "us", backends["bob"])
        assert await caller.reaches("alice")
        proxy.heal()
        await until(lambda: caller.reaches("bob"), timeout_s=BOUND_S)
