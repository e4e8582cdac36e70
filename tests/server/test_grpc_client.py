"""A second xDS client beside Envoy: gRPC's own, which resolves and balances, and uses state of the world.

World, snapshots, rollouts and streams are those of the product. Only the translation of pools, listeners and routes is
replaced, because gRPC needs an `api_listener` and backends without TLS.
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
from model.authority import LEAF_LIFETIME, KeyPair
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


# -- resources for gRPC's client ---------------------------------------------------------------------------------------


def api_listener(*_) -> Listener:
    manager = HttpConnectionManager(
        rds=Rds(route_config_name=names.GATEWAY_ROUTES, config_source=ads_source()),
        http_filters=[http_filter("envoy.filters.http.router", Router())],
    )
    return Listener(name=names.GATEWAY_LISTENER, api_listener=ApiListener(api_listener=pack(manager)))


def routes_to_the_last(pools, *_) -> RouteConfiguration:
    """Route everything to the pool with the last name."""
    cluster = names.pool_cluster(max(pools, key=lambda pool: pool.name))
    route = Route(match=RouteMatch(prefix=""), route=RouteAction(cluster=cluster))
    host = VirtualHost(name="all", domains=["*"], routes=[route])
    return RouteConfiguration(name=names.GATEWAY_ROUTES, virtual_hosts=[host])


def plain_cluster(pool) -> Cluster:
    """Translate a pool to a cluster whose timeout, and so its bytes, changes with the pool's name."""
    return Cluster(
        name=names.pool_cluster(pool),
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=ads_source()),
        lb_policy=ClusterLbPolicy.ROUND_ROBIN,
        connect_timeout=timedelta(seconds=len(pool.name)),
    )


def plain_endpoints(pool, exits, _=None) -> ClusterLoadAssignment:
    """Translate exits to one locality with a weight; gRPC ignores localities without one."""
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
    """Issue a certificate for localhost: gRPC checks the name that it dials, and its bootstrap cannot set another."""

    def issue(authority, now: datetime) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        san = [x509.DNSName("localhost")]
        signed = authorities._sign_leaf(authority, key.public_key(), "localhost", san, now, LEAF_LIFETIME)
        return KeyPair(signed, authorities.key_pem_of(key))

    monkeypatch.setattr("xds.server.server.issue_server", issue)


# -- backends and caller -----------------------------------------------------------------------------------------------


@pytest.fixture
async def backends():
    """`backends[name]`: the port of a server that answers with its name."""
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


class GrpcCallerProcess:
    """The process with gRPC's client (grpc_caller.py)."""

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
        assert answer["status"] == "OK", answer  # no call fails during a change
        return answer["body"] == name


@pytest.fixture
def calling(tmp_path, authority, fleet_db):
    """`async with calling(port) as caller` runs gRPC's client with the gateway's certificate."""
    from tests.server.conftest import certify  # noqa: PLC0415

    @asynccontextmanager
    async def start(port: int):
        pair = certify(authority, fleet_db.identity)
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
            yield GrpcCallerProcess(process)
        finally:
            process.kill()
            await process.wait()
            process._transport.close()

    return start


async def offer(fleet_db, country: str, port: int) -> int:
    return await fleet_db.change(fleet_db.exits[country], endpoint="127.0.0.1", port=port)


# -- tests -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_grpc_client_sees_missing_listener(fleet_db, server, calling):
    async with calling(server.ports[0]) as caller:
        answer = await caller.call("xds:///nobody")
    assert answer["status"] == "UNAVAILABLE"
    assert "nobody" in answer["details"]
    assert "does not exist" in answer["details"]


async def test_grpc_client_sees_removal_of_listener(fleet_db, server, calling, backends, until):
    await offer(fleet_db, "us", backends["alice"])
    async with calling(server.ports[0]) as caller:
        await until(lambda: caller.reaches("alice"))
        async with write(fleet_db.database) as unit:  # it is the last listener of its fleet
            await rollout.approve(unit, fleet_db.fleet.id)
        await fleet_db.remove(fleet_db.listener)

        async def is_told():
            answer = await caller.call()
            return answer["status"] == "UNAVAILABLE" and "does not exist" in answer["details"]

        await until(is_told)


async def test_grpc_client_follows_changes_of_resources(fleet_db, server, calling, backends, synced, until):
    await offer(fleet_db, "us", backends["alice"])
    await offer(fleet_db, "de", backends["carol"])
    async with calling(server.ports[0]) as caller:
        await until(lambda: caller.reaches("alice"))
        await offer(fleet_db, "us", backends["bob"])  # endpoints
        await until(lambda: caller.reaches("bob"))
        await fleet_db.change(fleet_db.pools["us"], name="us-east")  # its cluster, and with it the endpoints
        await offer(fleet_db, "us", backends["alice"])
        await until(lambda: caller.reaches("alice"))
        # the client no longer subscribes to the old cluster, so no other proxy could try a change of it
        await until(lambda: not server.publisher.rollouts_in_progress())
        await fleet_db.change(fleet_db.pools["de"], name="zz")  # routes and cluster
        await until(lambda: caller.reaches("carol"))
        await until(lambda: not server.publisher.rollouts_in_progress())

        async def all_accepted():
            standing = await synced(fleet_db.gateway.id)
            return len(standing) == 4 and all(accepted for _, accepted, _ in standing.values())

        await until(all_accepted)


async def test_grpc_client_survives_outage_of_control_plane(fleet_db, server, calling, backends, until):
    await offer(fleet_db, "us", backends["alice"])
    async with before_port(server.ports[0]) as proxy, calling(proxy.port) as caller:
        await until(lambda: caller.reaches("alice"))
        proxy.cut()
        await until(lambda: server.publisher.streams == 0)
        await offer(fleet_db, "us", backends["bob"])
        assert await caller.reaches("alice")
        proxy.heal()
        await until(lambda: caller.reaches("bob"), timeout_s=BOUND_S)
