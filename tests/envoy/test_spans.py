"""Spans of a real gateway and real exits: one trace for each request, without what client and target keep to themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from model.entities import Fleet, Parent, Tracing
from model.world import put
from tests.envoy.envoy_process import eventually
from tests.envoy.static_gateway import exchange, unused_port
from tests.envoy.two_hops import FLEET, POOL, TwoHops, make_exit, two_hops
from tests.server.otlp_sink import OtlpSink, ReceivedSpan, threaded_sink
from tests.servers import serving
from xds.translate import names

pytestmark = [pytest.mark.envoy, pytest.mark.slow]
CANARY = "c4n4ry"
CLIENT_TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"
US = ("exit-country", "us")
TELLING = (
    *(
        ("proxy-authorization", f"Basic {CANARY}"),
        ("authorization", CANARY),
        ("cookie", CANARY),
        ("user-agent", CANARY),
    ),
    *(
        ("x-client-trace-id", CANARY),
        ("referer", CANARY),
        ("content-type", "application/grpc"),
        ("x-b3-traceid", CANARY),
    ),
)
"""Headers of a client of which nothing may be in a span."""
FORCING = (
    *(("x-request-id", "a6f5b9d0-0000-9000-8000-000000000000"), ("x-envoy-force-trace", "true")),
    *(("x-client-trace-id", "1"), ("traceparent", CLIENT_TRACE), ("x-ep-host", "1")),
)
"""Headers by which clients have Envoys trace a request, as their defaults are."""
TRACE_HEADERS = ("traceparent", "tracestate", "x-request-id", "exit-traceparent", "exit-tracestate", "baggage")


@dataclass
class TracedTarget:
    """A web site, or a parent proxy, that answers every request and keeps its head."""

    heads: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    def handle(self, handler: StreamRequestHandler) -> None:
        if not (first := handler.rfile.readline()):
            return
        head = {"": first.decode()}
        while line := handler.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            head[name.lower()] = value.strip()
        self.heads.append(head)
        body = "" if first.startswith(b"CONNECT") else "content-length: 0\r\n"
        handler.wfile.write(f"HTTP/1.1 200 OK\r\nset-cookie: {CANARY}\r\n{body}\r\n".encode())

    def trace_headers(self) -> dict[str, str]:
        """Return the headers of a trace in the last request."""
        return {name: value for name, value in self.heads[-1].items() if name in TRACE_HEADERS}


@pytest.fixture(scope="module")
def target() -> Iterator[TracedTarget]:
    target = TracedTarget()

    class TracedTargetHandler(StreamRequestHandler):
        def handle(self):
            target.handle(self)

    with serving(ThreadingTCPServer(("127.0.0.1", 0), TracedTargetHandler)) as target.port:
        yield target


@pytest.fixture(scope="module")
def sink() -> Iterator[OtlpSink]:
    with threaded_sink() as opened:
        yield opened


@contextmanager
def traced_hops(folder, sink: OtlpSink, parent: Parent | None) -> Iterator[TwoHops]:
    egress = None if parent else "127.0.0.1"
    exit_ = make_exit(1, parent, egress_address=egress)
    port = int(sink.url.rpartition(":")[2])
    with two_hops(folder, exit_, tracing=Tracing(1.0), collector_port=port) as hops:
        eventually(lambda: hops.gateway.stat(f"cluster.{names.pool_cluster(POOL)}.membership_healthy") == 1)
        yield hops


@pytest.fixture(scope="module")
def direct(sink, tmp_path_factory) -> Iterator[TwoHops]:
    with traced_hops(tmp_path_factory.mktemp("direct"), sink, None) as hops:
        yield hops


@pytest.fixture(scope="module")
def behind_parent(sink, target, tmp_path_factory) -> Iterator[TwoHops]:
    with traced_hops(tmp_path_factory.mktemp("parent"), sink, Parent("127.0.0.1", target.port)) as hops:
        yield hops


@pytest.fixture(params=["direct", "behind_parent"])
def hops(request) -> TwoHops:
    """A gateway and an exit that dials targets, and those with one that has a parent."""
    return request.getfixturevalue(request.param)


def ask(hops: TwoHops, target: TracedTarget, method: str = "GET", headers: tuple[tuple[str, str], ...] = ()) -> int:
    """Send a request that needs an exit, and return the status of its answer."""
    has_parent = any(world_server.world.exits[exit_id].parent for exit_id, world_server in hops.servers.items())
    authority = f"{'target.example' if has_parent else '127.0.0.1'}:{target.port}"
    url = authority if method == "CONNECT" else f"http://{authority}/{CANARY}?{CANARY}={CANARY}"
    status, _, _ = exchange(hops.gateway.ports["clients"], url, [US, ("host", authority), *headers], method)
    return status


def wait_for_trace(sink: OtlpSink, known: set[str]) -> dict[str, ReceivedSpan]:
    """Wait for the spans of the one trace that is not known yet, and return them by their names."""

    def new_trace() -> dict[str, ReceivedSpan] | None:
        spans = [span for span in [*sink.spans] if span.trace_id not in known]
        return {span.name: span for span in spans} if len(spans) >= 3 else None

    spans: dict[str, ReceivedSpan] = eventually(new_trace)
    assert len({span.trace_id for span in spans.values()}) == 1
    return spans


def traces(sink: OtlpSink) -> set[str]:
    return {span.trace_id for span in sink.spans}


def change_tracing(hops: TwoHops, tracing: Tracing | None) -> None:
    hops.change(put(Fleet(FLEET, "demo", tracing)))


def wait_for_routes(hops: TwoHops, change) -> None:
    """Change something, and wait until the gateway has new routes."""
    stat = f"http.{names.GATEWAY_LISTENER}.rds.{names.GATEWAY_ROUTES}.config_reload"
    before = hops.gateway.stat(stat)
    change()
    eventually(lambda: hops.gateway.stat(stat) > before)


def change_listener(hops: TwoHops, tracing: Tracing | None) -> None:
    """Change the tracing of the gateway alone, and wait until it has another listener in place of the former one."""
    stat = "listener_manager.listener_modified"
    before = hops.gateway.stat(stat)
    hops.gateway_server.change(put(Fleet(FLEET, "demo", tracing)))
    eventually(lambda: hops.gateway.stat(stat) > before)
    eventually(lambda: hops.gateway.stat("listener_manager.total_listeners_draining") == 0)
    hops.gateway.ports = hops.gateway.process.ports()


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_request_is_one_trace_over_gateway_and_exit(hops, target, sink, method):
    known = traces(sink)
    assert ask(hops, target, method, TELLING) == 200
    spans = wait_for_trace(sink, known)
    gateway, attempt, exit_ = (spans[name] for name in ("gateway", "gateway.attempt", "exit"))
    assert (gateway.parent_id, attempt.parent_id, exit_.parent_id) == ("", gateway.span_id, attempt.span_id)
    assert (gateway.sender["service.name"], exit_.sender["service.name"]) == ("exitplane-gateway", "exitplane-exit")
    assert {span.attributes["http.method"] for span in (gateway, exit_)} == {method}
    assert gateway.attributes["upstream_cluster"] == names.pool_cluster(POOL)
    for text in (CANARY, f":{target.port}"):
        found = [each for span in spans.values() for each in span.attributes.items() if text in str(each)]
        assert found == []
    assert CANARY.encode() not in sink.raw


@pytest.mark.parametrize("sent", [{}, {"traceparent": CLIENT_TRACE, "tracestate": "a=b"}, {"traceparent": CANARY}])
def test_target_sees_of_a_trace_what_the_client_sent(hops, target, sink, sent):
    known = traces(sink)
    assert ask(hops, target, headers=tuple(sent.items())) == 200
    assert target.trace_headers() == sent
    assert wait_for_trace(sink, known)["gateway"].parent_id == ""


def test_parent_sees_of_a_trace_what_the_client_sent_with_connect(behind_parent, target):
    assert ask(behind_parent, target, "CONNECT") == 200
    assert target.trace_headers() == {}
    assert ask(behind_parent, target, "CONNECT", (("traceparent", CLIENT_TRACE),)) == 200
    assert target.trace_headers() == {"traceparent": CLIENT_TRACE}


def test_share_changes_no_listener_and_clients_cannot_force_a_trace(direct, target, sink):
    modified = "listener_manager.listener_modified"
    before = [envoy.stat(modified) for envoy in (direct.gateway, *direct.exits.values())]
    wait_for_routes(direct, lambda: change_tracing(direct, Tracing(0.0)))
    known = traces(sink)
    for method in ("GET", "CONNECT"):
        assert ask(direct, target, method, FORCING) == 200
    assert ask(direct, target) == 200
    wait_for_routes(direct, lambda: change_tracing(direct, Tracing(1.0)))
    assert ask(direct, target) == 200
    wait_for_trace(sink, known)  # no other trace came before
    assert before == [envoy.stat(modified) for envoy in (direct.gateway, *direct.exits.values())]


def test_exit_traces_nothing_that_its_gateway_does_not(direct, target, sink):
    (server,) = direct.servers.values()
    known = traces(sink)
    change_listener(direct, None)
    assert server.world.fleets[FLEET].tracing is not None
    assert ask(direct, target) == 200
    assert target.trace_headers() == {}
    change_listener(direct, Tracing(1.0, targets=True))
    assert ask(direct, target) == 200
    spans = wait_for_trace(sink, known)
    assert spans["gateway"].attributes["exitplane.target"] == f"127.0.0.1:{target.port}"
    assert "exitplane.target" not in spans["exit"].attributes
    change_listener(direct, Tracing(1.0))


@pytest.mark.parametrize("listens", [False, True], ids=["absent", "silent"])
def test_collector_that_is_away_costs_spans_and_no_request(target, tmp_path, listens):
    hole, port = unused_port()
    if listens:
        hole.listen()
    exit_ = make_exit(1, None, egress_address="127.0.0.1")
    with hole, two_hops(tmp_path, exit_, tracing=Tracing(1.0), collector_port=port) as hops:
        eventually(lambda: hops.gateway.stat(f"cluster.{names.pool_cluster(POOL)}.membership_healthy") == 1)
        for _ in range(80):  # 64 exports may wait for the collector
            assert ask(hops, target) == 200
        for envoy in (hops.gateway, *hops.exits.values()):
            eventually(lambda envoy=envoy: envoy.stat(f"cluster.{names.COLLECTOR}.upstream_rq_503") > 0)
