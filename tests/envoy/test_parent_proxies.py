"""Exits with a parent proxy, as real Envoys; the parent is a stand-in for gluetun."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from model.entities import Parent
from model.world import put
from tests.envoy.envoy_process import BOUND_S, eventually
from tests.envoy.static_gateway import exchange
from tests.envoy.two_hops import make_exit, two_hops
from tests.gluetun import GluetunStandIn, basic, running
from xds.translate import forbidden_targets, names

pytestmark = pytest.mark.envoy
TARGET = "target.example.com"
US = [("exit-country", "us")]
PASSWORD = "correct horse"
THIS_HOST = forbidden_targets._THIS_HOST
Pauses = Iterable[float]
"""Pauses of a client between its reads, in seconds."""
SLOW: Pauses = (0.001,) * 1000
STALLS: Pauses = (*(0,) * 300, 1.0)
"""One pause that is longer than Envoy's default delayed close timeout."""


class _Echo(BaseHTTPRequestHandler):
    """Answers with the path, headers and source address of the request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        said = {"path": self.path, "headers": dict(self.headers), "from": self.client_address[0]}
        body = json.dumps(said).encode()
        self.send_response(int(self.headers.get("answer", 200)))
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def target() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def stand_in() -> Iterator[GluetunStandIn]:
    gluetun = GluetunStandIn(username="exit", password=PASSWORD, names={TARGET: "127.0.0.1"}, source="127.0.0.77")
    with running(gluetun) as started:
        yield started


@pytest.fixture(scope="module")
def hops(stand_in, tmp_path_factory):
    exit_ = make_exit(1, Parent("127.0.0.1", stand_in.proxy_port, "exit", PASSWORD))
    with two_hops(tmp_path_factory.mktemp("hops"), exit_) as started:
        eventually(lambda: "no exit of pool" not in ask(started, "http://127.0.0.1/")[1])  # the health check has passed
        assert not [
            answer.error for world_server in started.servers.values() for answer in world_server.answers if answer.error
        ]
        yield started


@pytest.fixture
def parent(hops, stand_in) -> Iterator[GluetunStandIn]:
    """The stand-in; its settings are restored after the test."""
    stand_in.requests.clear()
    yield stand_in
    stand_in.username, stand_in.password, stand_in.hangs, stand_in.stealth = "exit", PASSWORD, False, False


def ask(hops, url: str, *headers: tuple[str, str], method: str = "GET"):
    return exchange(hops.gateway.ports["clients"], url, [*US, *headers], method)


@contextmanager
def connected(hops, authority: str) -> Iterator[socket.socket]:
    """Open a connection and send a CONNECT to `authority`."""
    with closing(socket.create_connection(("127.0.0.1", hops.gateway.ports["clients"]), timeout=BOUND_S)) as client:
        lines = (f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", "exit-country: us", "", "")
        client.sendall("\r\n".join(lines).encode())
        yield client


def head_of(client: socket.socket) -> bytes:
    """Read the head of a response, and no byte after it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = client.recv(1)
        assert more, head
        head += more
    return head


def status_of(client: socket.socket) -> int:
    return int(head_of(client).split()[1])


@contextmanager
def tunnel(hops, authority: str):
    """Open a tunnel to `authority`. Yields the socket, the status and the head of the response."""
    with connected(hops, authority) as client:
        head = head_of(client)
        yield client, int(head.split()[1]), head.decode()


def test_plain_http_reaches_parent_in_absolute_form_with_credentials(hops, parent, target):
    status, body, _ = ask(hops, f"http://{TARGET}:{target}/a/b?c=d", ("accept", "text/x"))
    assert status == 200, body
    said = json.loads(body)
    assert (said["path"], said["from"]) == ("/a/b?c=d", "127.0.0.77")
    assert {name.lower() for name in said["headers"]} == {"host", "accept", "x-forwarded-for", "connection"}
    (asked,) = parent.requests
    assert (asked.method, asked.target, asked.version) == ("GET", f"http://{TARGET}:{target}/a/b?c=d", "HTTP/1.1")
    assert asked.headers["proxy-authorization"] == basic("exit", PASSWORD)


def test_client_credentials_do_not_reach_parent(hops, parent, target):
    assert ask(hops, f"http://{TARGET}:{target}/", ("proxy-authorization", basic("alice", "secret")))[0] == 200
    assert [each.headers["proxy-authorization"] for each in parent.requests] == [basic("exit", PASSWORD)]


def test_tunnel_reaches_target_through_parent(hops, parent, target):
    with tunnel(hops, f"{TARGET}:{target}") as (client, status, head):
        assert status == 200, head
        assert "transfer-encoding" not in head.lower()
        client.sendall(f"GET /x HTTP/1.1\r\nHost: {TARGET}\r\nConnection: close\r\n\r\n".encode())
        said = read_all(client)
    assert b'"from": "127.0.0.77"' in said
    (asked,) = parent.requests
    assert (asked.method, asked.target) == ("CONNECT", f"{TARGET}:{target}")
    assert asked.headers["proxy-authorization"] == basic("exit", PASSWORD)


def read_all(client: socket.socket, pauses: Pauses = ()) -> bytes:
    found, pausing = bytearray(), iter(pauses)
    while chunk := client.recv(16_384):
        found += chunk
        threading.Event().wait(next(pausing, 0))
    return bytes(found)


CONTENT = hashlib.shake_256(b"x").digest(8 * 1024 * 1024)


@contextmanager
def far_side(content: bytes, head: bytes = b"") -> Iterator[int]:
    """Run a server that sends this to the first client that sends anything, and closes. Yields its port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            with closing(server.accept()[0]) as far:
                far.recv(65_536)
                far.sendall(head + content)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(BOUND_S)


@contextmanager
def open_download(hops, content: bytes) -> Iterator[socket.socket]:
    """Open a tunnel to a `far_side`."""
    with far_side(content) as port, tunnel(hops, f"{TARGET}:{port}") as (client, status, head):
        assert status == 200, head
        yield client


def download(client: socket.socket, pauses: Pauses = ()) -> bytes:
    client.sendall(b"?")
    return read_all(client, pauses)


def test_long_http_download_closed_by_target_is_complete(hops, parent):
    with far_side(CONTENT, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n") as port:
        client = HTTPConnection("127.0.0.1", hops.gateway.ports["clients"], timeout=BOUND_S)
        with closing(client):
            client.request("GET", f"http://{TARGET}:{port}/", headers=dict(US))
            assert client.getresponse().read() == CONTENT


def test_short_tunnel_download_closed_by_target_is_complete(hops, parent):
    for _ in range(20):
        with open_download(hops, CONTENT[:200_000]) as client:
            assert download(client) == CONTENT[:200_000]


@pytest.mark.parametrize("pauses", [(), SLOW, STALLS], ids=["fast", "slow", "stalls"])
def test_long_tunnel_download_closed_by_target_is_complete(hops, parent, pauses):
    with ExitStack() as opened, ThreadPoolExecutor(5) as threads:
        clients = [opened.enter_context(open_download(hops, CONTENT)) for _ in range(5)]
        downloads = list(threads.map(partial(download, pauses=pauses), clients))
    assert [len(each) for each in downloads if each != CONTENT] == []


def test_long_tunnel_download_closed_by_client_is_complete(hops, parent):
    """HTTP within TLS ends so."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        tunnel(hops, f"{TARGET}:{server.getsockname()[1]}") as (client, status, _),
        closing(server.accept()[0]) as far,
    ):
        assert status == 200
        thread = threading.Thread(target=far.sendall, args=(CONTENT,), daemon=True)
        thread.start()
        received = b""
        while len(received) < len(CONTENT):
            received += client.recv(65_536)
        thread.join(BOUND_S)
    assert received == CONTENT


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_parent_refusing_credentials_is_exit_failure_not_407(hops, parent, target, method):
    parent.password = "another"
    where = f"{TARGET}:{target}" if method == "CONNECT" else f"http://{TARGET}:{target}/"
    status, body, headers = ask(hops, where, method=method)
    assert (status, body) == (
        503,
        "exitplane: the parent proxy refuses the exit's credentials\n",
    )
    assert not {"proxy-authenticate", names.FAILURE_HEADER} & {name.lower() for name in headers}
    assert "credentials_refused" in headers["proxy-status"]


def test_new_credentials_by_sds_keep_open_tunnels(hops, parent, target):
    (exit_id,) = hops.exits
    envoy, world_server = hops.exits[exit_id], hops.servers[exit_id]
    exit_ = world_server.world.exits[exit_id]
    with tunnel(hops, f"{TARGET}:{target}") as (client, status, _):
        assert status == 200
        before = len(world_server.sent)
        parent.password = "another"
        hops.change(put(replace(exit_, parent=replace(exit_.parent, password="another"))))
        eventually(lambda: ask(hops, f"http://{TARGET}:{target}/")[0] == 200)
        client.sendall(f"GET /x HTTP/1.1\r\nHost: {TARGET}\r\nConnection: close\r\n\r\n".encode())
        assert b"200" in read_all(client).partition(b"\r\n")[0]
    assert world_server.sent[before:] == [names.SECRET]
    assert envoy.stat("listener_manager.listener_modified") == 0
    assert envoy.stat("cluster_manager.cluster_modified") == 0
    hops.change(put(exit_))
    parent.password = PASSWORD
    eventually(lambda: ask(hops, f"http://{TARGET}:{target}/")[0] == 200)


def test_password_is_in_no_config_dump(hops, parent, target):
    (exit_,) = hops.exits.values()
    for envoy in (exit_, hops.gateway):
        dump = envoy.admin("/config_dump?include_eds")
        assert names.POOL_PREFIX in dump or names.PARENT in dump
        assert PASSWORD not in dump
        assert basic("exit", PASSWORD).removeprefix("Basic ") not in dump
    assert names.PARENT_SECRET in exit_.admin("/config_dump")


def test_name_of_parent_does_not_lead_to_the_exits_own_host(tmp_path, target, monkeypatch):
    """A name is resolved at the exit alone, so the API cannot tell."""
    monkeypatch.setattr(forbidden_targets, "_THIS_HOST", THIS_HOST)  # the fixture `pair` may have changed it
    with (
        running(GluetunStandIn(names={TARGET: "127.0.0.1"})) as local,
        two_hops(tmp_path, make_exit(9, Parent("localhost", local.proxy_port))) as named,
    ):
        eventually(lambda: "no exit of pool" not in ask(named, "http://127.0.0.1/")[1])
        for method, where in (("GET", f"http://{TARGET}:{target}/"), ("CONNECT", f"{TARGET}:{target}")):
            status, _, headers = ask(named, where, method=method)
            assert (status, "address_denied" in headers["proxy-status"]) == (503, True)
        assert local.requests == []


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_unreachable_target_is_not_exit_failure(hops, parent, method):
    """The parent's own 503 goes to the client, and no other exit is tried."""
    where = f"{TARGET}:1" if method == "CONNECT" else f"http://{TARGET}:1/"
    status, body, _ = ask(hops, where, method=method)
    assert (status, body) == (503, "service unavailable")
    assert len(parent.requests) == 1


@pytest.mark.parametrize("answer", [401, 403, 500, 503])
def test_target_response_reaches_client_unchanged(hops, parent, target, answer):
    assert ask(hops, f"http://{TARGET}:{target}/", ("answer", str(answer)))[0] == answer


FORBIDDEN = (
    *("127.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "0.0.0.0", "10.1.2.3", "172.31.0.1"),
    *("192.168.1.1", "169.254.169.254", "224.0.0.1", "255.255.255.255", "10.0.0.1."),
    *("172.16.0.1", "100.64.0.1", "100.127.255.254"),  # the ends of 172.16.0.0/12 and 100.64.0.0/10
    *("012.0.0.1", "8.8.8.010"),  # octal to some resolvers: the first is 10.0.0.1
    *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]", "[0:0:0:0:0:0:0:1]"),
    *(
        "192.0.0.192",
        "168.63.129.16",
        "[2002:7f00:1::]",
        "[2001:0:1::]",
        "[2001::7f00:1]",
        "[::127.0.0.1]",
        "[fec0::1]",
    ),
    *("localhost", "LOCALHOST", "localhost.", "a.localhost", "gluetun", "host.docker.internal", "printer.local"),
)


@pytest.mark.parametrize("host", FORBIDDEN)
@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_requests_for_local_and_private_hosts_do_not_reach_parent(hops, parent, target, host, method):
    where = f"{host}:{target}" if method == "CONNECT" else f"http://{host}:{target}/"
    status, body, _ = ask(hops, where, method=method)
    assert status in {400, 503}
    assert parent.requests == []
    if status == 503:
        assert "address_denied" in body


@pytest.mark.parametrize(
    "host",
    [
        *(
            "192.0.2.9",
            "192.0.1.1",
            "[2001:db8::9]",
            "[2003::1]",
            TARGET,
            f"{TARGET}.",
            TARGET.upper(),
            "xn--bcher-kva.example",
        ),
        *("100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "8.8.8.0"),  # just outside the refused networks
    ],
)
def test_requests_for_public_addresses_and_names_reach_parent(hops, parent, host):
    parent.names |= {host.strip("[]"): "127.0.0.1"}
    ask(hops, f"{host}:1", method="CONNECT")
    assert [each.target.lower() for each in parent.requests] == [f"{host}:1".lower()]


# -- two exits of a pool, each with a parent of its own ----------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Their parents have a name, which may be one of this host here."""
    parents = [GluetunStandIn(username="exit", password=PASSWORD, names={TARGET: "127.0.0.1"}) for _ in range(2)]
    with running(parents[0]), running(parents[1]), pytest.MonkeyPatch.context() as patch:
        patch.setattr(forbidden_targets, "_THIS_HOST", ())
        exits = [
            make_exit(2 + number, Parent("localhost", each.proxy_port, "exit", PASSWORD))
            for number, each in enumerate(parents)
        ]
        with two_hops(tmp_path_factory.mktemp("pair"), *exits) as started:
            started.parents = parents
            eventually(
                lambda: ask(started, f"http://{TARGET}:1/")[1] == "service unavailable" and served_by_both(started)
            )
            yield started


def served_by_both(pair) -> bool:
    return all(each.requests for each in pair.parents)


def test_other_exit_serves_all_tunnels_while_one_parent_refuses(pair, target):
    """A 407 for plain HTTP may be the target's, so it is not retried (test_hostile_answers.py)."""
    pair.parents[0].password = "another"
    pair.parents[0].requests.clear()
    assert all_served(pair, target, "CONNECT") == {200}
    assert pair.parents[0].requests  # the parent was asked, and the client did not notice
    pair.parents[0].password = PASSWORD


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_other_exit_serves_all_while_one_parent_is_dead(pair, target, method):
    pair.parents[0].die()
    assert all_served(pair, target, method) == {200}
    pair.parents[0].revive()
    pair.parents[0].requests.clear()
    eventually(lambda: all_served(pair, target, method) == {200} and pair.parents[0].requests)


def test_client_gets_error_when_all_parents_are_dead(pair, target):
    for each in pair.parents:
        each.die()
    status, body, _ = ask(pair, f"http://{TARGET}:{target}/")
    assert status == 503
    assert body.startswith("exitplane: the exit of pool us could not use its parent proxy (upstream_reset")
    for each in pair.parents:
        each.revive()


def all_served(pair, target: int, method: str) -> set[int]:
    where = f"{TARGET}:{target}" if method == "CONNECT" else f"http://{TARGET}:{target}/"
    return {ask(pair, where, method=method)[0] for _ in range(20)}
