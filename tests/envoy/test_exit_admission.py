"""A real exit admits the gateways that its fleet has, and no others."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID

import pytest

from model.entities import Proxy, Role
from model.world import Change, Kind, put
from tests.envoy.envoy_process import BOUND_S, eventually
from tests.envoy.gateway_identity import read_identity
from tests.envoy.two_hops import FLEET, GATEWAY, TwoHops, certify, make_exit, two_hops
from tests.servers import serving
from xds.translate import names

pytestmark = [pytest.mark.envoy, pytest.mark.slow]
EXIT = make_exit(1, None, egress_address="127.0.0.1")


class _EmptyPage(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("admission")


@pytest.fixture(scope="module")
def hops(folder) -> Iterator[TwoHops]:
    with two_hops(folder, EXIT) as started:
        yield started


@pytest.fixture(scope="module")
def identity(folder, hops) -> ssl.SSLContext:
    """TLS with the gateway's certificate."""
    return read_identity(folder / str(GATEWAY))


@contextmanager
def dialled(hops: TwoHops, identity: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Iterator[ssl.SSLSocket]:
    """Dial the exit itself, and resume a TLS session if one is given."""
    port = hops.exits[EXIT.id].ports[names.EXIT_LISTENER]
    with (
        closing(socket.create_connection(("127.0.0.1", port), timeout=BOUND_S)) as raw,
        identity.wrap_socket(raw, server_hostname=names.exit_host(EXIT.id), session=session) as connection,
    ):
        yield connection


def request(connection: ssl.SSLSocket, port: int) -> bytes:
    """Return the first line of the answer as far as its status."""
    connection.sendall(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())
    return connection.recv(65536)[:12]


def is_answered(hops: TwoHops, identity: ssl.SSLContext) -> bool:
    """Check if the exit answers a request at all, be it that it reaches no target."""
    try:
        with dialled(hops, identity) as connection:
            return request(connection, 1) != b""
    except OSError:  # an alert, the end or a reset, whichever comes first
        return False


def open_tunnel(connection: ssl.SSLSocket, port: int) -> bytes:
    """Return the first line of the answer as far as its status."""
    connection.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())
    return connection.recv(65536)[:12]


def test_exit_refuses_a_gateway_that_was_removed(hops, identity):
    """Neither does it resume a session of that gateway."""
    exit_, server = hops.exits[EXIT.id], hops.servers[EXIT.id]
    sessions: list[ssl.SSLSession | None] = [None]
    resumed: list[bool] = []
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _EmptyPage)) as port:

        def is_admitted() -> bool:
            try:
                with dialled(hops, identity, sessions[-1]) as connection:
                    admitted = request(connection, port) == b"HTTP/1.1 200"
                    resumed.append(connection.session_reused)
                    sessions.append(connection.session)
                    return admitted
            except OSError:  # an alert, the end or a reset, whichever comes first
                return False

        assert is_admitted()
        assert is_admitted()
        assert resumed == [False, True]
        gateway = server.world.proxies[GATEWAY]
        server.change(Change(Kind.PROXY, GATEWAY, None))
        refused = f"listener.127.0.0.1_{exit_.ports[names.EXIT_LISTENER]}.ssl.fail_verify_san"
        eventually(lambda: not is_admitted() and exit_.stat(refused) > 0)  # by TLS, not by the filter of requests alone
        server.change(put(gateway))
        eventually(is_admitted)
    assert exit_.stat("listener_manager.listener_modified") == 0  # it drains nothing


@pytest.mark.parametrize(
    "stranger",
    [
        None,
        Proxy(UUID(int=8), FLEET, "unknown", Role.GATEWAY),
        Proxy(GATEWAY, UUID(int=2), "of another fleet", Role.GATEWAY),
        Proxy(EXIT.id, FLEET, "an exit", Role.EXIT),
    ],
    ids=lambda each: "no certificate" if each is None else each.name,
)
def test_exit_refuses_who_is_no_gateway_of_its_fleet(hops, identity, tmp_path, stranger):
    """The certificates are of the same authority, as those of the fleet's gateways."""
    context = ssl.create_default_context(cadata=hops.authority.certificate_pem)
    if stranger is not None:
        certify(tmp_path, hops.authority, stranger)
        context = read_identity(tmp_path)
    assert not is_answered(hops, context)
    assert is_answered(hops, identity)


def test_open_connections_of_removed_gateway_carry_no_new_request(hops, identity):
    """Envoy checks a certificate at the handshake alone, so each request is checked by itself."""
    exit_, server = hops.exits[EXIT.id], hops.servers[EXIT.id]
    gateway = server.world.proxies[GATEWAY]
    with (
        serving(ThreadingHTTPServer(("127.0.0.1", 0), _EmptyPage)) as port,
        dialled(hops, identity) as connection,
        dialled(hops, identity) as unused,
    ):
        eventually(lambda: request(connection, port) == b"HTTP/1.1 200")
        server.accept()  # a canary would have to try changes first, of which there is none here
        server.change(Change(Kind.PROXY, GATEWAY, None))
        eventually(lambda: request(connection, port) == b"HTTP/1.1 403")
        assert open_tunnel(unused, port) == b"HTTP/1.1 403"
        server.change(put(gateway))
        eventually(lambda: request(connection, port) == b"HTTP/1.1 200")
    assert exit_.stat("listener_manager.listener_modified") == 0  # it drains nothing
