"""A real gateway's listeners over TLS: certificates by server name, versions, curl through them, and rotation under a tunnel."""

from __future__ import annotations

import socket
import socketserver
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID

import pytest
from cryptography import x509

from model.authority import CertificateAuthority, create_fleet_authority, issue_listener
from model.entities import Listener, ServerCertificate
from model.world import put
from tests.envoy.envoy_process import BOUND_S, eventually
from tests.envoy.two_hops import FLEET, POOL, TwoHops, make_exit, two_hops
from tests.servers import EchoTarget, serving
from xds.translate import names

pytestmark = [pytest.mark.envoy, pytest.mark.slow]
EXIT = make_exit(1, None, egress_address="127.0.0.1")
DEFAULT, EXACT, WILDCARD = UUID(int=31), UUID(int=32), UUID(int=33)
HOSTS = {DEFAULT: "gateway.example", EXACT: "de.gateway.example", WILDCARD: "*.gateway.example"}
SECURE = Listener(
    *(UUID(int=3), FLEET, "127.0.0.1", 0, "secure"),
    pool_id=POOL.id,
    certificate_id=DEFAULT,
    additional_certificates=(EXACT, WILDCARD),
)
STRICT = replace(SECURE, id=UUID(int=4), name="strict", additional_certificates=(), minimum_tls_version="1.3")


class _HelloPage(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return create_fleet_authority(FLEET, datetime.now(UTC))


@pytest.fixture(scope="module")
def hops(authority, tmp_path_factory) -> Iterator[TwoHops]:
    with two_hops(tmp_path_factory.mktemp("tls"), EXIT) as started:
        certificates = [make_certificate(authority, each) for each in HOSTS]
        started.gateway_server.change(*map(put, [*certificates, SECURE, STRICT]))
        eventually(lambda: len(started.gateway.process.ports()) == 3)
        started.gateway.ports = started.gateway.process.ports()
        yield started


def make_certificate(authority: CertificateAuthority, certificate_id: UUID) -> ServerCertificate:
    pair = issue_listener(authority, datetime.now(UTC), [HOSTS[certificate_id]])
    return ServerCertificate(certificate_id, FLEET, f"c-{certificate_id.int}", pair.certificate_pem, pair.key_pem)


@contextmanager
def dialled(
    hops: TwoHops, server_name: str | None, *, listener: Listener = SECURE, version: ssl.TLSVersion | None = None
) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    port = hops.gateway.ports[names.gateway_listener(listener)]
    with (
        closing(socket.create_connection(("127.0.0.1", port), timeout=BOUND_S)) as raw,
        context.wrap_socket(raw, server_hostname=server_name) as connection,
    ):
        yield connection


def presented(hops: TwoHops, server_name: str | None) -> x509.Certificate:
    with dialled(hops, server_name) as connection:
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True))


def certificate_of(hops: TwoHops, certificate_id: UUID) -> x509.Certificate:
    chain = hops.gateway_server.world.certificates[certificate_id].chain
    return x509.load_pem_x509_certificates(chain.encode())[0]


@pytest.mark.parametrize(
    ("server_name", "expected"),
    [
        ("gateway.example", DEFAULT),
        ("de.gateway.example", EXACT),
        ("us.gateway.example", WILDCARD),
        ("a.us.gateway.example", DEFAULT),
        ("unknown.example", DEFAULT),
        (None, DEFAULT),
    ],
)
def test_client_gets_certificate_of_its_server_name(server_name, expected, hops):
    assert presented(hops, server_name) == certificate_of(hops, expected)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("listener", "version", "accepted"),
    [
        (SECURE, ssl.TLSVersion.TLSv1_1, False),
        (SECURE, ssl.TLSVersion.TLSv1_2, True),
        (SECURE, ssl.TLSVersion.TLSv1_3, True),
        (STRICT, ssl.TLSVersion.TLSv1_2, False),
        (STRICT, ssl.TLSVersion.TLSv1_3, True),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_older_versions_of_tls_are_refused(listener, version, accepted, hops):
    if accepted:
        with dialled(hops, "gateway.example", listener=listener, version=version) as connection:
            assert connection.version() == version.name.replace("_", ".")
        return
    with (
        pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"),
        dialled(hops, "gateway.example", listener=listener, version=version),
    ):
        pass


@pytest.mark.parametrize("how", [["--proxytunnel"], []], ids=["connect", "plain"])
def test_curl_fetches_through_the_listener_and_verifies_it(how, hops, authority, tmp_path: Path):
    (tmp_path / "ca.pem").write_text(authority.certificate_pem)
    port = hops.gateway.ports[names.gateway_listener(SECURE)]
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _HelloPage)) as target:
        command = ["curl", "--silent", "--show-error", "--fail", "--max-time", "60", *how]
        command += ["--proxy", f"https://us.gateway.example:{port}", "--proxy-cacert", str(tmp_path / "ca.pem")]
        command += ["--resolve", f"us.gateway.example:{port}:127.0.0.1", f"http://127.0.0.1:{target}/"]
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=BOUND_S)
    assert (done.stdout, done.stderr) == ("hello", "")


def test_rotated_certificate_leaves_open_tunnels_and_the_listener(hops, authority):
    with (
        serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), EchoTarget)) as echo,
        dialled(hops, "de.gateway.example") as tunnel,
    ):
        target = f"127.0.0.1:{echo}"
        tunnel.sendall(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode())
        assert tunnel.recv(12) == b"HTTP/1.1 200"
        eventually(lambda: tunnel.recv(4096).endswith(b"\r\n\r\n"))
        for number, rotated in enumerate((EXACT, DEFAULT)):
            before = certificate_of(hops, rotated)
            hops.gateway_server.change(put(make_certificate(authority, rotated)))
            wanted = HOSTS[rotated]
            eventually(lambda wanted=wanted, before=before: presented(hops, wanted) != before)
            assert presented(hops, wanted) == certificate_of(hops, rotated)
            tunnel.sendall(b"%d" % number)
            assert tunnel.recv(1) == b"%d" % number
    # the one that is used for all other names stays the first after its rotation
    assert presented(hops, "unknown.example") == certificate_of(hops, DEFAULT)
    assert hops.gateway.stat("listener_manager.listener_modified") == 0
    assert hops.gateway.stat("listener_manager.total_listeners_draining") == 0
    assert not [each for each in hops.gateway_server.answers if each.error]
