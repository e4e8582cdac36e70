"""Answers of web sites and parent proxies that speak to Envoy: none has an effect on the way to the client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from model.entities import Parent
from tests.envoy.envoy_process import eventually
from tests.envoy.static_gateway import exchange
from tests.envoy.two_hops import POOL, TwoHops, make_exit, two_hops
from tests.servers import serving
from xds.translate import names

pytestmark = pytest.mark.envoy
CLUSTER = f"cluster.{names.pool_cluster(POOL)}"
US = [("exit-country", "us"), ("content-length", "0")]
FAIL = "x-envoy-immediate-health-check-fail: true"
FAILURE = "x-ep-exit-failure: connect timeout"
SIGNALS = (
    *(FAIL, "x-envoy-ratelimited: true", "x-envoy-overloaded: true", "x-envoy-degraded: true"),
    *("X-Envoy-Upstream-Canary: true", "x-envoy-attempt-count: 9", "x-envoy-decorator-operation: x"),
    *("x-envoy-upstream-healthchecked-cluster: x", "x-envoy-max-retries: 9", FAILURE),
)
"""Headers that Envoy or a gateway acts upon, or once acted upon, in an answer."""
FAILURES = ("connect timeout", "Network_is_unreachable", "no_healthy_upstream", "parent: credentials_refused")
"""Failures for which a gateway tries another exit, when they are an exit's."""


@dataclass
class HostileServer:
    """A web site or a parent proxy that answers every request with the same bytes."""

    answer: bytes = b""
    requests: list[str] = field(default_factory=list)
    """Their first lines."""
    port: int = 0

    def say(
        self, *headers: str, status: str = "200 OK", before: str = "", end: str = "content-length: 0\r\n\r\n"
    ) -> None:
        lines = "".join(f"{each}\r\n" for each in headers)
        self.answer = f"{before}HTTP/1.1 {status}\r\n{lines}{end}".encode()
        self.requests.clear()

    def handle(self, handler: StreamRequestHandler) -> None:
        first = handler.rfile.readline()
        while handler.rfile.readline().strip():
            pass
        if first:
            self.requests.append(first.decode().strip())
            handler.wfile.write(self.answer)


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileServer]:
    server = HostileServer()

    class HostileHandler(StreamRequestHandler):
        def handle(self):
            server.handle(self)

    with serving(ThreadingTCPServer(("127.0.0.1", 0), HostileHandler)) as server.port:
        yield server


@pytest.fixture(scope="module")
def direct(tmp_path_factory) -> Iterator[TwoHops]:
    exits = [make_exit(number, None, egress_address="127.0.0.1") for number in (1, 2)]
    with two_hops(tmp_path_factory.mktemp("direct"), *exits) as started:
        yield started


@pytest.fixture(scope="module")
def behind_parents(hostile, tmp_path_factory) -> Iterator[TwoHops]:
    exits = [make_exit(number, Parent("127.0.0.1", hostile.port)) for number in (1, 2)]
    with two_hops(tmp_path_factory.mktemp("parents"), *exits) as started:
        yield started


@pytest.fixture(params=["direct", "behind_parents"])
def hops(request) -> TwoHops:
    """A gateway and two exits, without parents, and with a hostile one."""
    started = request.getfixturevalue(request.param)
    eventually(lambda: started.gateway.stat(f"{CLUSTER}.membership_healthy") == 2)
    return started


def has_parents(hops: TwoHops) -> bool:
    return any(world_server.world.exits[exit_id].parent for exit_id, world_server in hops.servers.items())


def ask(hops: TwoHops, hostile: HostileServer, method: str = "GET"):
    """Send a request to the hostile server, or through it if it is the parent."""
    authority = f"{'target.example.com' if has_parents(hops) else '127.0.0.1'}:{hostile.port}"
    return exchange(
        hops.gateway.ports["clients"], authority if method == "CONNECT" else f"http://{authority}/", US, method
    )


def passive_failures(hops: TwoHops) -> int:
    """Return how often an answer took an exit out of rotation."""
    return hops.gateway.stat(f"{CLUSTER}.health_check.passive_failure")


ANSWERS = {
    "final": {},
    "error": {"status": "503 Service Unavailable"},
    "switch": {"status": "101 Switching Protocols", "end": "connection: upgrade\r\nupgrade: websocket\r\n\r\n"},
    "continue": {"before": f"HTTP/1.1 100 Continue\r\n{FAIL}\r\n{FAILURE}\r\n\r\n"},
    "hints": {"before": f"HTTP/1.1 103 Early Hints\r\n{FAIL}\r\n{FAILURE}\r\n\r\n"},
    "trailers": {"end": f"transfer-encoding: chunked\r\n\r\n0\r\n{FAIL}\r\n{FAILURE}\r\n\r\n"},
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_signals_in_answers_have_no_effect(hops, hostile, answer):
    before = passive_failures(hops)
    for method in ("GET", "POST", "CONNECT"):
        hostile.say(*SIGNALS, "x-kept: 1", **answer)
        headers = ask(hops, hostile, method)[2]
        assert not [name for name in headers if name.lower().startswith(("x-envoy-", "x-ep-"))]
        if method == "CONNECT" and not has_parents(hops):
            continue  # the exit's own answer
        assert headers["x-kept"] == "1"
        assert len(hostile.requests) == 1
    assert passive_failures(hops) == before
    assert hops.gateway.stat(f"{CLUSTER}.membership_healthy") == 2


@pytest.mark.parametrize("failure", FAILURES)
def test_forged_failure_of_an_exit_is_not_retried(hops, hostile, failure):
    for method in ("POST", "GET"):
        hostile.say(f"{names.FAILURE_HEADER}: {failure}")
        assert ask(hops, hostile, method)[0] == 200
        assert len(hostile.requests) == 1


REFUSALS = {
    "nothing": b"",
    "no HTTP": b"hello\r\n\r\n",
    "407": b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
    # an exit takes so many, and adds one
    "100 headers": b"HTTP/1.1 200 OK\r\n%s\r\n" % b"".join(b"h%d: x\r\n" % number for number in range(100)),
}


@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
def test_request_that_reached_a_target_is_not_repeated(hops, hostile, answer):
    for method in ("POST", "GET"):
        hostile.answer = answer
        hostile.requests.clear()
        with suppress(HTTPException):  # http.client reads 100 headers
            ask(hops, hostile, method)
        assert len(hostile.requests) == 1


@pytest.mark.parametrize("answer", ["nothing", "no HTTP", "407"])
def test_connect_that_a_parent_fails_is_tried_on_both_exits(behind_parents, hostile, answer):
    """Nothing of the client's was sent to the target."""
    hostile.answer = REFUSALS[answer]
    hostile.requests.clear()
    status, text, _ = ask(behind_parents, hostile, "CONNECT")
    assert (status, "exitplane: the" in text, len(hostile.requests)) == (503, True, 4)


def test_exit_that_failed_its_health_check_says_so_in_its_next_answer(direct, hostile):
    """The gateway believes the signal when it is the exit's own, and its client does not see it."""
    before = passive_failures(direct)
    exit_ = next(iter(direct.exits.values()))
    exit_.process.admin("/healthcheck/fail", "POST")
    try:
        hostile.say()
        for _ in range(8):
            assert names.HEALTH_FAILURE_HEADER not in ask(direct, hostile)[2]
        eventually(lambda: direct.gateway.stat(f"{CLUSTER}.membership_healthy") == 1)
        assert passive_failures(direct) > before
    finally:
        exit_.process.admin("/healthcheck/ok", "POST")
