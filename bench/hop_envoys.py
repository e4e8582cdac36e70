"""A gateway's and an exit's real Envoy with the product's translated configuration, or with HTTP/2 between them as a baseline.

The resources are read from files (path_config_source) in place of an ADS stream, so that no control plane shares the processors.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException, HTTPResponse
from typing import Any, Final
from uuid import UUID

import betterproto2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.config.state_dir import BOOTSTRAP, StateDir
from agent.envoy.bootstrap import Bootstrap, render
from agent.envoy.secrets import write_secrets
from agent.envoy.supervisor import EnvoyCommand, find_envoy
from bench.hop_network import HopNetwork
from bench.process import Process
from demo.errors import LabError
from demo.processes import Child, ProcessGroup, StopStage
from model.authority import CertificateAuthority, create_authority, sign_request
from model.entities import Entity, Exit, Fleet, Listener, Pool, Proxy, Role, TrustedAuthority
from model.exit_states import ExitState
from model.identity import Identity
from model.world import World, put
from xds.translate import names
from xds.translate.clusters import HTTP_OPTIONS
from xds.translate.encoding import encode
from xds.translate.http import http2_options
from xds.translate.json_view import as_json
from xds.translate.scopes import scopes_of
from xds.translate.tls import HTTP2

COUNTRY: Final = "us"
_FLEET, _LISTENER, _GATEWAY, _EXIT, _AUTHORITY = (UUID(int=number) for number in range(1, 6))
_POOL: Final = Pool(UUID(int=6), _FLEET, COUNTRY, COUNTRY)
_STATS: Final = f"cluster.{names.pool_cluster(_POOL)}"
_GATEWAY_ADDRESS: Final = "127.0.0.1"
_FIRST_PORTS: Final = (8100, 8200)
"""Of gateways and of exits, whose namespaces belong to the benchmark alone."""
_ADMIN: Final = "admin.sock"
_WITHIN_S: Final = 30.0
_SOURCES: Final = {
    "rds": ("config_source", names.ROUTE),
    "eds_cluster_config": ("eds_config", names.ENDPOINT),
    "config_discovery": ("config_source", names.EXTENSION),
    "validation_context_sds_secret_config": ("sds_config", names.SECRET),
}
"""The fields whose source of configuration may be ADS, with the field and the type of the source."""

_FILES: Final = {
    names.LISTENER: "configuration/listeners.json",
    names.CLUSTER: "configuration/clusters.json",
    names.ROUTE: "configuration/routes.json",
    names.ENDPOINT: "configuration/endpoints.json",
    names.EXTENSION: "configuration/extensions.json",
    names.SECRET: "configuration/secrets.json",
}

Resource = dict[str, Any]
Variant = Callable[[str, Resource], None]
"""Changes a translated resource of a type, given as JSON, in place."""


def as_translated(_type_url: str, _resource: Resource) -> None:
    """Leave a resource as the product translates it."""


def speak_http2(type_url: str, resource: Resource) -> None:
    """Make gateway and exit speak HTTP/2, many tunnels on a connection, which was the product's way before.

    A connection carries 500 streams, as more resets on it could end them all.
    """
    if type_url == names.LISTENER and resource["name"] == names.EXIT_LISTENER:
        (chain,) = resource["filter_chains"]
        chain["filters"][0]["typed_config"]["codec_type"] = "HTTP2"
        _set_alpn(chain)
    elif type_url == names.CLUSTER and "eds_cluster_config" in resource:
        _set_alpn(resource)
        resource.pop("preconnect_policy", None)
        options = http2_options().to_dict(output_format=betterproto2.OutputFormat.PROTO_JSON)
        resource["typed_extension_protocol_options"] = {
            HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{HTTP_OPTIONS}",
                "common_http_protocol_options": {"max_requests_per_connection": 500},
                "explicit_http_config": {"http2_protocol_options": options},
            }
        }


def _set_alpn(holder: Resource) -> None:
    holder["transport_socket"]["typed_config"]["common_tls_context"]["alpn_protocols"] = [HTTP2]


@dataclass(frozen=True, slots=True)
class HopEnvoy:
    """A running Envoy."""

    folder: StateDir
    child: Child

    @property
    def process(self) -> Process:
        return Process(self.child.pid)

    def query_admin(self, path: str) -> str:
        """Return the reply of its admin interface. Raises OSError while there is none."""
        with closing(socket.socket(socket.AF_UNIX)) as admin, self.folder.short_path(_ADMIN) as pipe:
            admin.settimeout(_WITHIN_S)
            admin.connect(pipe)
            admin.sendall(f"GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
            response = HTTPResponse(admin)
            response.begin()
            return response.read().decode()

    def read_gauge(self, name: str) -> int:
        """Read a counter or a gauge; -1 while Envoy has none or does not answer."""
        with suppress(OSError, HTTPException, ValueError):
            return int(self.query_admin(f"/stats?filter=^{name}$").rpartition(":")[2])
        return -1


@dataclass(frozen=True, slots=True)
class HopPair:
    """A gateway's and an exit's Envoy. Clients in the gateway's namespace find the gateway at `address`, and the exit at its own."""

    address: tuple[str, int]
    exit_address: tuple[str, int]
    gateway: HopEnvoy
    exit: HopEnvoy

    @property
    def cpu_s(self) -> float:
        """The processor time of both so far."""
        return self.gateway.process.cpu_s + self.exit.process.cpu_s

    @property
    def connections(self) -> int:
        """The number of connections from the gateway to the exit."""
        return self.gateway.read_gauge(f"{_STATS}.upstream_cx_active")

    @property
    def connections_to_exit(self) -> int:
        """The number of connections that the exit holds, whoever opened them."""
        host, port = self.exit_address
        return self.exit.read_gauge(f"listener.{host}_{port}.downstream_cx_active")

    @property
    def failed_checks(self) -> int:
        """The number of failed health checks so far."""
        return self.gateway.read_gauge(f"{_STATS}.health_check.failure")


@contextmanager
def open_pair(network: HopNetwork, variant: Variant, *, number: int, workers: int) -> Iterator[HopPair]:
    """Run both Envoys, each with `workers`, while the block lasts; it begins when the gateway finds the exit healthy.

    Pairs that run at the same time differ in `number`.
    """
    gateway_port, exit_port = _FIRST_PORTS[0] + number, _FIRST_PORTS[1] + number
    authority = create_authority(datetime.now(UTC))
    trusted = TrustedAuthority(_AUTHORITY, authority.certificate_pem)
    world = _make_world(network.exit_address, gateway_port, exit_port).changed(2, [put(trusted)])
    namespaces = {Role.EXIT: network.exit, Role.GATEWAY: network.gateway}
    with ExitStack() as stack:
        envoys = {}
        for proxy in world.proxies.values():
            folder = StateDir(network.folder / f"{proxy.role}-{number}")
            folder.path.mkdir()
            _certify(folder, proxy, authority)
            _write_configuration(folder, proxy, world, variant)
            running = _run_envoy(folder, network.mark, namespaces[proxy.role], workers)
            envoys[proxy.role] = stack.enter_context(running)
        addresses = (_GATEWAY_ADDRESS, gateway_port), (network.exit_address, exit_port)
        pair = HopPair(*addresses, envoys[Role.GATEWAY], envoys[Role.EXIT])
        _wait_until_healthy(pair)
        yield pair


@contextmanager
def _run_envoy(folder: StateDir, mark: str, namespace: str, workers: int) -> Iterator[HopEnvoy]:
    command = EnvoyCommand(find_envoy(None), ("--concurrency", str(workers), "--log-level", "error"), "", True)
    processes = ProcessGroup(mark, folder.path)
    child = processes.start("envoy", StopStage.AGENT, command.argv, namespace=namespace)
    try:
        yield HopEnvoy(folder, child)
    finally:
        processes.end([child])


def _wait_until_healthy(pair: HopPair) -> None:
    deadline_s = time.monotonic() + _WITHIN_S
    while pair.gateway.read_gauge(f"{_STATS}.membership_healthy") != 1:
        for envoy in (pair.gateway, pair.exit):
            envoy.child.check()
        if time.monotonic() > deadline_s:
            raise LabError(f"the exit is not healthy after {_WITHIN_S:g} s\n{pair.gateway.child.tail()}")
        time.sleep(0.05)


def _make_world(exit_address: str, gateway_port: int, exit_port: int) -> World:
    entities: tuple[Entity, ...] = (
        Fleet(_FLEET, "bench"),
        _POOL,
        Listener(_LISTENER, _FLEET, _GATEWAY_ADDRESS, gateway_port),
        Proxy(_GATEWAY, _FLEET, "gateway", Role.GATEWAY),
        Proxy(_EXIT, _FLEET, "exit", Role.EXIT),
        Exit(_EXIT, _POOL.id, "exit", exit_address, exit_port, ExitState.HEALTHY, bind_address=exit_address),
    )
    return World().changed(1, map(put, entities))


def _certify(folder: StateDir, proxy: Proxy, authority: CertificateAuthority) -> None:
    """Write the secrets that an agent has from its enrolment."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    identity = Identity(proxy.fleet_id, proxy.role, proxy.id)
    csr_pem = request.public_bytes(serialization.Encoding.PEM).decode()
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    certificate_pem = sign_request(authority, csr_pem, identity, datetime.now(UTC))
    write_secrets(folder, key_pem=key_pem, certificate_pem=certificate_pem, authority_pem=authority.certificate_pem)


def _write_configuration(folder: StateDir, proxy: Proxy, world: World, variant: Variant) -> None:
    """Write the agent's bootstrap, with files in place of ADS, and a file with the resources of each type."""
    found: dict[str, dict[str, Resource]] = {type_url: {} for type_url in _FILES}
    for scope in scopes_of(proxy, world):
        for each in scope.resources(world):
            message = scope.translate(world, each)
            if message is not None:
                resource = as_json(each.type_url, encode(message))
                variant(each.type_url, resource)
                found[each.type_url][each.name] = {"@type": each.type_url, **_read_from_files(resource)}
    for type_url, resources in found.items():
        folder.write(_FILES[type_url], json.dumps({"resources": [*resources.values()]}))
    bootstrap = render(Bootstrap(proxy.role, proxy.id, proxy.fleet_id, xds=()))
    bootstrap["admin"] = {"address": {"pipe": {"path": _ADMIN}}}
    bootstrap["dynamic_resources"] = {
        "lds_config": _file_source(names.LISTENER),
        "cds_config": _file_source(names.CLUSTER),
    }
    bootstrap["static_resources"] = {}
    folder.write(BOOTSTRAP, json.dumps(bootstrap))


def _read_from_files(node: Any) -> Any:
    """Replace ADS by files in a resource and everything in it."""
    if isinstance(node, list):
        return [_read_from_files(each) for each in node]
    if not isinstance(node, dict):
        return node
    replaced = {key: _read_from_files(value) for key, value in node.items()}
    for key, (source, type_url) in _SOURCES.items():
        if "ads" in replaced.get(key, {}).get(source, {}):
            replaced[key][source] = _file_source(type_url)
    return replaced


def _file_source(type_url: str) -> Resource:
    return {"resource_api_version": "V3", "path_config_source": {"path": _FILES[type_url]}}
