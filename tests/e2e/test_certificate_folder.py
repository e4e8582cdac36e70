"""A test that a gateway presents what an ACME client writes, and that open tunnels go on."""

from __future__ import annotations

import socket
import ssl
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.certificates import Issued, issue
from tests.e2e.labs import BOUND_S
from tests.ports import reserved_port

NAME = "gateway.example"


@pytest.fixture
def folder(lab) -> Path:
    path = Path(lab.control_plane_environment["EXITPLANE_CERTIFICATE_FOLDER"]) / "demo" / NAME
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_pair(folder: Path, made: Issued) -> None:
    for file, content in (("privkey.pem", made.key_pem()), ("fullchain.pem", made.pem)):
        (folder / "new").touch(0o600)
        (folder / "new").write_text(content)
        (folder / "new").rename(folder / file)


def dial(port: int) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=BOUND_S), server_hostname=NAME)


def presents(port: int, made: Issued) -> bool:
    try:
        with closing(dial(port)) as connection:
            return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True)) == made.pem
    except OSError:
        return False


def test_renewal_in_folder_is_presented_and_open_tunnel_goes_on(lab, folder, eventually, stat):
    first, second = (issue(NAME, now=datetime.now(UTC)) for _ in range(2))
    write_pair(folder, first)
    certificate = lab.api("POST", "/certificates", {"name": "acme", "fleet": "demo", "folder": NAME})
    with reserved_port() as port:
        body = {"name": "secure", "fleet": "demo", "address": "127.0.0.1", "port": port, "country": "gb"}
        listener = lab.api("POST", "/listeners", body | {"certificate": "acme"})
        eventually(lambda: presents(port, first))
        modified = stat(lab.gateway, "listener_manager.listener_modified")
        with closing(dial(port)) as tunnel:
            page = lab.page_address
            tunnel.sendall(f"CONNECT {page} HTTP/1.1\r\nHost: {page}\r\n\r\n".encode())
            assert b" 200 " in tunnel.recv(4096)
            tunnel.sendall(f"GET /bytes?n=900000000&bps=250000 HTTP/1.1\r\nHost: {page}\r\n\r\n".encode())
            write_pair(folder, second)
            eventually(lambda: presents(port, second))
            received = 0
            while received < 1_000_000:  # four seconds, longer than the drain time
                received += len(chunk := tunnel.recv(65_536))
                assert chunk
        assert stat(lab.gateway, "listener_manager.listener_modified") == modified
        lab.api("DELETE", f"/listeners/{listener['id']}")
        lab.api("DELETE", f"/certificates/{certificate['id']}")
