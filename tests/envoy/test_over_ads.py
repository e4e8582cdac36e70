"""A real gateway on the aggregated stream: what comes by ECDS and SDS comes, and changes without touching its listeners."""

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
from tests.envoy.gateways import fetch
from tests.envoy.planes import Envoy, Plane, envoy_of
from tests.envoy.processes import BOUND_S, eventually
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


def make_plane() -> Plane:
    return Plane(World().changed(1, map(put, entities())), Proxy(UUID(int=9), FLEET, "gw", Role.GATEWAY))


@pytest.fixture
def plane() -> Plane:
    return make_plane()


@pytest.fixture
def gateway(plane, tmp_path):
    write_secrets(tmp_path, create_authority(datetime.now(UTC)))
    with envoy_of(plane, tmp_path) as envoy:
        yield envoy


@pytest.fixture(scope="module")
def standing(tmp_path_factory) -> Iterator[tuple[Plane, Envoy]]:
    """A plane and its gateway, which no test changes."""
    folder = tmp_path_factory.mktemp("standing")
    write_secrets(folder, create_authority(datetime.now(UTC)))
    plane = make_plane()
    with envoy_of(plane, folder) as envoy:
        yield plane, envoy


def as_user(name: str) -> tuple[str, str]:
    return ("proxy-authorization", "Basic " + base64.b64encode(f"{name}-country-us:x".encode()).decode())


def asked_by(gateway: Envoy, name: str) -> tuple[int, str]:
    return fetch(gateway.ports["clients"], "http://example.com/", [as_user(name)])


def test_a_gateway_warms_no_longer_than_its_groups_and_certificates_take(standing):
    plane, gateway = standing
    assert {*gateway.ports} == {"clients", f"clients/{UUID(int=3)}"}
    assert {names.EXTENSION, names.SECRET} <= plane.subscribed
    assert not [answer for answer in plane.answers if answer.error]
    assert gateway.stat("listener_manager.total_listeners_warming") == 0
    assert asked_by(gateway, "alice") == (451, "for staff")
    assert asked_by(gateway, "bob")[0] == 503  # the pool has no exits


def test_users_routes_and_pools_change_and_no_listener_does(plane, gateway):
    with closing(HTTPConnection("127.0.0.1", gateway.ports["clients"], timeout=BOUND_S)) as kept:
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
def test_a_client_that_dials_by_tls_says_where_by_the_name_that_it_dials(standing, server_name, status, version):
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
        assert secure.selected_alpn_protocol() == "h2"
    context.set_alpn_protocols(["http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=BOUND_S) as plain,
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
