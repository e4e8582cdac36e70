"""A real gateway on an ADS stream: ECDS and SDS resources arrive, and change without a listener update."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from http.client import HTTPConnection
from uuid import UUID

import pytest

from model.authority import create_authority, issue_server
from model.entities import Deny, Fleet, Listener, Match, Pool, Proxy, Role, Route, ServerCertificate, User
from model.world import Change, Kind, World, put
from tests.envoy.envoy_process import BOUND_S, eventually
from tests.envoy.static_gateway import fetch
from tests.envoy.world_server import RunningEnvoy, WorldServer, envoy_of
from xds.server.envoy_validator import write_secrets
from xds.translate import names

pytestmark = pytest.mark.envoy
FLEET = UUID(int=1)


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


def make_world_server() -> WorldServer:
    return WorldServer(World().changed(1, map(put, entities())), Proxy(UUID(int=9), FLEET, "gw", Role.GATEWAY))


@pytest.fixture
def world_server() -> WorldServer:
    return make_world_server()


@pytest.fixture
def gateway(world_server, tmp_path):
    write_secrets(tmp_path, create_authority(datetime.now(UTC)))
    with envoy_of(world_server, tmp_path) as envoy:
        yield envoy


@pytest.fixture(scope="module")
def standing(tmp_path_factory) -> Iterator[tuple[WorldServer, RunningEnvoy]]:
    """A server and its gateway that no test changes."""
    folder = tmp_path_factory.mktemp("standing")
    write_secrets(folder, create_authority(datetime.now(UTC)))
    world_server = make_world_server()
    with envoy_of(world_server, folder) as envoy:
        yield world_server, envoy


def as_user(name: str) -> tuple[str, str]:
    return ("proxy-authorization", "Basic " + base64.b64encode(f"{name}-country-us:x".encode()).decode())


def asked_by(gateway: RunningEnvoy, name: str) -> tuple[int, str]:
    return fetch(gateway.ports["clients"], "http://example.com/", [as_user(name)])


def test_gateway_finishes_warming_with_groups_and_certificates(standing):
    world_server, gateway = standing
    assert {*gateway.ports} == {"clients", f"clients/{UUID(int=3)}"}
    assert {names.EXTENSION, names.SECRET} <= world_server.subscribed
    assert not [answer for answer in world_server.answers if answer.error]
    assert gateway.stat("listener_manager.total_listeners_warming") == 0
    assert asked_by(gateway, "alice") == (451, "for staff")
    assert asked_by(gateway, "bob")[0] == 503  # the pool has no exits


def test_users_routes_and_pools_change_without_listener_update(world_server, gateway):
    with closing(HTTPConnection("127.0.0.1", gateway.ports["clients"], timeout=BOUND_S)) as kept:
        kept.request("GET", "http://example.com/", headers=dict([as_user("alice")]))
        assert kept.getresponse().read() == b"for staff"
        before = len(world_server.sent)
        world_server.change(put(User(UUID(int=42), FLEET, "bob", "staff")))
        eventually(lambda: asked_by(gateway, "bob") == (451, "for staff"))
        assert world_server.sent[before:] == [names.EXTENSION]
        route = world_server.world.routes[UUID(int=21)]
        world_server.change(put(replace(route, action=Deny(403, "for no staff"))))
        eventually(lambda: asked_by(gateway, "bob") == (403, "for no staff"))
        world_server.change(put(Pool(UUID(int=12), FLEET, "jp", "jp")), Change(Kind.ROUTE, UUID(int=21), None))
        eventually(lambda: asked_by(gateway, "bob")[0] == 503)
        kept.request("GET", "http://example.com/", headers=dict([as_user("alice")]))
        assert kept.getresponse().status == 503
    assert gateway.stat("listener_manager.listener_modified") == 0
    assert gateway.stat("listener_manager.total_listeners_draining") == 0
    assert names.SECRET not in world_server.sent[before:]


@pytest.mark.parametrize(
    ("server_name", "status"), [("DE.example.com", 451), ("us.example.com", 503), ("x.example.com", 400)]
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_server_name_states_client_intent(standing, server_name, status, version):
    _, gateway = standing
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    port = gateway.ports[f"clients/{UUID(int=3)}"]
    with (
        socket.create_connection(("127.0.0.1", port), timeout=BOUND_S) as plain,
        context.wrap_socket(plain, server_hostname=server_name) as secure,
    ):
        secure.sendall(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
        assert secure.recv(4096).split(b" ")[1] == str(status).encode()


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], "h2"), (["h3"], None)],
    ids=["browser", "http1", "grpc", "unknown"],
)
def test_gateway_prefers_http1_whatever_its_client_prefers(standing, offered, chosen):
    _, gateway = standing
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(offered)
    with (
        socket.create_connection(("127.0.0.1", gateway.ports[f"clients/{UUID(int=3)}"]), timeout=BOUND_S) as plain,
        context.wrap_socket(plain, server_hostname="us.example.com") as secure,
    ):
        assert secure.selected_alpn_protocol() == chosen


def test_new_certificate_is_used_without_listener_update(world_server, gateway):
    port = gateway.ports[f"clients/{UUID(int=3)}"]
    before = ssl.get_server_certificate(("127.0.0.1", port))
    pair = issue_server(create_authority(datetime.now(UTC)), datetime.now(UTC))
    world_server.change(put(ServerCertificate(UUID(int=31), FLEET, "example", pair.certificate_pem, pair.key_pem)))
    eventually(lambda: ssl.get_server_certificate(("127.0.0.1", port)) != before)
    assert gateway.stat("listener_manager.listener_modified") == 0
