"""Users log in at a real gateway: right and wrong secrets, users who are not admitted, forged headers, and changes beside a tunnel."""

from __future__ import annotations

import base64
import socket
import socketserver
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.client import HTTPConnection, HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

import pytest

from model.entities import Authentication, Deny, Listener, Match, Route, User
from model.user_secrets import store_secret
from model.world import Change, Kind, put
from tests.envoy.envoy_process import BOUND_S, eventually
from tests.envoy.two_hops import FLEET, POOL, TwoHops, make_exit, two_hops
from tests.servers import EchoTarget, serving
from xds.translate import names

pytestmark = [pytest.mark.envoy, pytest.mark.slow]
EXIT = make_exit(1, None, egress_address="127.0.0.1")
PRIVATE = Listener(
    *(UUID(int=3), FLEET, "127.0.0.1", 0, "private"),
    pool_id=POOL.id,
    authentication=frozenset({Authentication.BASIC}),
)
OLD, NEW, BOBS = "a" + 26 * "q", "b" + 26 * "r", "a" + 26 * "s"  # names of tests are equal in all processes
ALICE = User(UUID(int=41), FLEET, "alice", secrets=(store_secret(OLD), store_secret(NEW)))
BOB = User(UUID(int=42), FLEET, "bob.2", secrets=(store_secret(BOBS),))
DENIED = Route(UUID(int=51), FLEET, "not-bob", 1, True, Match(users=frozenset({"bob.2"})), Deny(401, "not bob\n"))


class _HeadersPage(BaseHTTPRequestHandler):
    """Answers with the request's header lines."""

    def do_GET(self):
        body = self.headers.as_bytes()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hops(tmp_path_factory) -> Iterator[TwoHops]:
    with two_hops(tmp_path_factory.mktemp("users"), EXIT) as started:
        started.gateway_server.change(*map(put, [PRIVATE, ALICE, BOB]))
        eventually(lambda: len(started.gateway.process.ports()) == 2)
        started.gateway.ports = started.gateway.process.ports()
        eventually(lambda: status(started, None) == 407)
        yield started


@pytest.fixture(scope="module")
def page() -> Iterator[int]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _HeadersPage)) as port:
        yield port


@pytest.fixture(autouse=True)
def users(hops) -> Iterator[None]:
    """Put back what a test changed."""
    yield
    world = hops.gateway_server.world
    if {*world.users.values()} != {ALICE, BOB} or world.routes:
        hops.gateway_server.change(put(ALICE), put(BOB), Change(Kind.ROUTE, DENIED.id, None))
        eventually(lambda: status(hops, f"alice:{NEW}") == 503 and status(hops, f"bob.2:{BOBS}") == 503)


def basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


def ask(
    hops: TwoHops, credentials: str | None, url: str = "http://127.0.0.1:1/", *headers: tuple[str, str]
) -> tuple[int, HTTPMessage, bytes]:
    """Request a URL of a target by a plain proxy request."""
    port = hops.gateway.ports[names.gateway_listener(PRIVATE)]
    with closing(HTTPConnection("127.0.0.1", port, timeout=BOUND_S)) as connection:
        connection.putrequest("GET", url)
        if credentials is not None:
            connection.putheader("proxy-authorization", basic(credentials))
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()


def status(hops: TwoHops, credentials: str | None) -> int:
    """Return the status of a request whose target refuses connections: 503 for a user who was admitted."""
    return ask(hops, credentials)[0]


@contextmanager
def tunnel(hops: TwoHops, credentials: str, target: str) -> Iterator[tuple[bytes, socket.socket]]:
    port = hops.gateway.ports[names.gateway_listener(PRIVATE)]
    with closing(socket.create_connection(("127.0.0.1", port), timeout=BOUND_S)) as stream:
        head = f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nproxy-authorization: {basic(credentials)}\r\n\r\n"
        stream.sendall(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += stream.recv(1)
        yield answer, stream


@pytest.mark.parametrize("secret", [OLD, NEW], ids=["old", "new"])
@pytest.mark.parametrize("name", ["alice", "ALICE", "alice-country-us", "alice-pool-us-session-x"])
def test_user_is_served_with_either_of_two_secrets(name, secret, hops, page):
    assert ask(hops, f"{name}:{secret}", f"http://127.0.0.1:{page}/")[0] == 200


@pytest.mark.parametrize(
    "credentials",
    [
        *(None, "", ":", "alice", "alice:", f":{NEW}", f"carol:{NEW}", f"alice:{NEW}x", f"alice:{NEW[:-1]}"),
        *(f"alice:c{NEW[1:]}", f"alice/b:{NEW}", f"bob.2:{NEW}", f"alice:{BOBS}", f"-:{NEW}", f"alice:\0{NEW}"),
        *(f"alice:{NEW.upper()}", f"alice :{NEW}", f"\u00e4lice:{NEW}", "a" * 200 + f":{NEW}"),
    ],
)
def test_other_credentials_are_answered_with_a_proxys_challenge(credentials, hops):
    code, headers, body = ask(hops, credentials)
    assert (code, headers["www-authenticate"]) == (407, None)
    assert headers["proxy-authenticate"] == 'Basic realm="exitplane", charset="UTF-8"'
    assert body == b"exitplane: log in with the name of a user and one of the user's secrets\n"


@pytest.mark.parametrize(
    "header",
    [
        *(("x-ep-user", "alice"), ("x-ep-shard", "1"), ("proxy-authorization", "Bearer x")),
        *(("authorization", basic(f"alice:{NEW}")), ("proxy-authorization", f"Basic {NEW}")),
    ],
)
def test_forged_headers_admit_nobody(header, hops):
    assert ask(hops, None, "http://127.0.0.1:1/", header)[0] == 407


def test_credentials_twice_admit_nobody(hops):
    twice = ("proxy-authorization", basic(f"alice:{NEW}"))
    assert ask(hops, f"bob.2:{BOBS}", "http://127.0.0.1:1/", twice)[0] == 407


def test_target_sees_none_of_the_headers_of_a_login(hops, page):
    _, _, seen = ask(hops, f"alice:{NEW}", f"http://127.0.0.1:{page}/", ("authorization", "kept"))
    lines = dict(line.split(": ", 1) for line in seen.decode().lower().splitlines() if line)
    assert lines == {"host": f"127.0.0.1:{page}", "accept-encoding": "identity", "authorization": "kept"}


def test_tunnel_needs_the_right_secret(hops):
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), EchoTarget)) as echo:
        with tunnel(hops, f"alice:{NEW}", f"127.0.0.1:{echo}") as (answer, stream):
            assert answer.startswith(b"HTTP/1.1 200")
            stream.sendall(b"x")
            assert stream.recv(1) == b"x"
        with tunnel(hops, "alice:wrong", f"127.0.0.1:{echo}") as (answer, _):
            assert answer.startswith(b"HTTP/1.1 407")


@pytest.mark.parametrize("how", [["--proxytunnel"], []], ids=["connect", "plain"])
def test_curl_logs_in(how, hops, page):
    port = hops.gateway.ports[names.gateway_listener(PRIVATE)]
    command = ["curl", "--silent", "--show-error", "--fail", "--max-time", "60", *how]
    command += ["--proxy", f"http://alice-country-us:{NEW}@127.0.0.1:{port}", "--proxy-anyauth"]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{page}/"], capture_output=True, check=False, text=True, timeout=BOUND_S
    )
    assert done.stdout.lower().startswith("host: 127.0.0.1"), done.stderr


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (replace(BOB, enabled=False), ("user_disabled", b"exitplane: the user bob.2 is disabled\n")),
        (replace(BOB, expires_at=1), ("user_expired", b"exitplane: the user bob.2 has expired\n")),
    ],
    ids=["disabled", "expired"],
)
def test_user_who_is_not_admitted_is_told_why(changed, reason, hops):
    hops.gateway_server.change(put(changed))
    eventually(lambda: status(hops, f"bob.2:{BOBS}") == 403)
    _, headers, body = ask(hops, f"bob.2:{BOBS}")
    assert (headers["proxy-status"], body) == (f"exitplane; error=http_request_denied; details={reason[0]}", reason[1])
    assert status(hops, "bob.2:wrong") == 407


def test_routes_match_the_user_who_logged_in(hops):
    hops.gateway_server.change(put(DENIED))
    eventually(lambda: status(hops, f"bob.2-country-us:{BOBS}") == 401)
    _, headers, body = ask(hops, f"bob.2:{BOBS}")
    assert (headers["proxy-authenticate"], body) == (None, b"not bob\n")
    assert status(hops, f"alice:{NEW}") == 503


def test_changed_users_act_at_once_and_leave_open_tunnels(hops):
    revoked = replace(ALICE, secrets=(store_secret(OLD),))
    with (
        serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), EchoTarget)) as echo,
        tunnel(hops, f"alice:{NEW}", f"127.0.0.1:{echo}") as (answer, stream),
    ):
        assert answer.startswith(b"HTTP/1.1 200")
        sent = len(hops.gateway_server.sent)
        hops.gateway_server.change(put(revoked))
        eventually(lambda: status(hops, f"alice:{NEW}") == 407)
        assert status(hops, f"alice:{OLD}") == 503
        assert hops.gateway_server.sent[sent:] == [names.EXTENSION]
        stream.sendall(b"x")
        assert stream.recv(1) == b"x"
    assert hops.gateway.stat("listener_manager.listener_modified") == 0
    assert not [each for each in hops.gateway_server.answers if each.error]


def test_config_dump_shows_no_hash_of_a_secret(hops):
    dump = hops.gateway.process.admin("/config_dump")[1]
    assert names.user_shard(ALICE.shard) in dump
    assert "{SHA}" not in dump
