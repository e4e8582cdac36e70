"""Bytes that clients receive through two hops when the target ends the connection, by kind of client, target and exit.

Each download is whole, or its loss is one that `docs/benchmarks.md` states as a limit, and the client is told. Every property
`whole` of the report (`--junit-xml`) has the number of whole downloads by pace. EXITPLANE_TEST_SCALE=8 makes 32 of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from queue import Queue
from uuid import UUID

import pytest

from model.entities import Parent, Pool
from tests.envoy.content_targets import (
    ANSWER,
    content_server,
    end_by_fin,
    end_by_rst_after_fin,
    grpc_content_server,
    upload_server,
)
from tests.envoy.download_clients import (
    CONTENT,
    GO,
    PACES,
    ClientStream,
    DownloadResult,
    Http1Stream,
    Http2Stream,
    RequestKind,
    download,
    download_by_grpc,
)
from tests.envoy.envoy_process import BOUND_S, eventually
from tests.envoy.two_hops import FLEET, POOL, TwoHops, make_exit, two_hops
from tests.gluetun import GluetunStandIn, running
from tests.scale import scaled
from xds.translate import names

pytestmark = [pytest.mark.envoy, pytest.mark.slow]
AT_ONCE = 4
"""The number of clients at each pace. With many more, all of them are slow."""
ROUNDS = scaled(1)
EACH = AT_ONCE * ROUNDS
"""The number of downloads at each pace."""
BEHIND_PARENT = Pool(UUID(int=12), FLEET, "gb", "gb", resilience=POOL.resilience)
HOST_BEHIND_PARENT = "target.example.com"
ENDS = {"FIN": end_by_fin, "RST after FIN": end_by_rst_after_fin}
VERSIONS = {"HTTP/1.1": Http1Stream, "HTTP/2": Http2Stream}

each_exit = pytest.mark.parametrize("exit_", ["direct", "parent"])
each_version = pytest.mark.parametrize("version", VERSIONS)
each_end = pytest.mark.parametrize("end", ENDS)


@dataclass
class Matrix:
    """A gateway, an exit without and an exit with a parent, and the targets."""

    hops: TwoHops
    ports: dict[str, int]
    """The port of each target: an end of ENDS, `gRPC`, or `upload`."""
    uploaded: Queue[int]
    clients: ThreadPoolExecutor

    def open(self, exit_: str, version: str, kind: RequestKind, target: str) -> ClientStream:
        host, country = ("127.0.0.1", "us") if exit_ == "direct" else (HOST_BEHIND_PARENT, "gb")
        return VERSIONS[version](
            self.hops.gateway.ports["clients"], f"{host}:{self.ports[target]}", kind, {"exit-country": country}
        )

    def download(self, exit_: str, version: str, kind: RequestKind, target: str) -> dict[str, list[DownloadResult]]:
        """Download EACH times at each pace. Return the downloads by pace."""

        def run(pauses_s: tuple[float, ...]) -> DownloadResult:
            with closing(self.open(exit_, version, kind, target)) as stream:
                assert stream.status in {200, 101}
                if target == "gRPC":
                    return download_by_grpc(stream, pauses_s)
                if kind is not RequestKind.PLAIN:
                    stream.sendall(GO)
                return download(stream, pauses_s)

        made: dict[str, list[DownloadResult]] = {pace: [] for pace in PACES}
        for _ in range(ROUNDS):
            futures = [(pace, self.clients.submit(run, PACES[pace])) for pace in PACES for _ in range(AT_ONCE)]
            for pace, future in futures:
                made[pace].append(future.result())
        return made


@pytest.fixture(scope="module")
def matrix(tmp_path_factory) -> Iterator[Matrix]:
    with ExitStack() as stack:
        parent = stack.enter_context(running(GluetunStandIn(names={HOST_BEHIND_PARENT: "127.0.0.1"})))
        exits = (
            make_exit(1, None, egress_address="127.0.0.1"),
            make_exit(2, Parent("127.0.0.1", parent.proxy_port), BEHIND_PARENT),
        )
        pools = (POOL, BEHIND_PARENT)
        hops = stack.enter_context(two_hops(tmp_path_factory.mktemp("hops"), *exits, pools=pools))
        for pool in pools:
            healthy = f"cluster.{names.pool_cluster(pool)}.membership_healthy"
            eventually(lambda healthy=healthy: hops.gateway.stat(healthy) == 1)
        ports = {name: stack.enter_context(content_server(end)) for name, end in ENDS.items()}
        ports["gRPC"] = stack.enter_context(grpc_content_server())
        ports["upload"], uploaded = stack.enter_context(upload_server())
        clients = stack.enter_context(ThreadPoolExecutor(len(PACES) * AT_ONCE))
        yield Matrix(hops, ports, uploaded, clients)


@pytest.fixture
def report(record_property):
    """Record the number of whole downloads by pace, and return those that are not whole."""

    def run(downloads: dict[str, list[DownloadResult]]) -> dict[str, list[DownloadResult]]:
        lost = {pace: [each for each in made if not each.is_whole] for pace, made in downloads.items()}
        whole = {pace: f"{EACH - len(lost[pace])} of {EACH}" for pace in downloads}
        record_property("whole", ", ".join(f"{pace} {number}" for pace, number in whole.items()))
        return {pace: made for pace, made in lost.items() if made}

    return run


TUNNELS = [
    (RequestKind.CONNECT, "direct"),
    (RequestKind.CONNECT, "parent"),
    (RequestKind.WEBSOCKET, "direct"),
]
"""Kinds of tunnels, and the exits that carry them."""
each_tunnel = pytest.mark.parametrize(("kind", "exit_"), TUNNELS)

# -- whole -------------------------------------------------------------------------------------------------------------


@each_tunnel
@each_end
def test_tunnel_of_http1_client_is_whole(matrix, report, end, kind, exit_):
    assert report(matrix.download(exit_, "HTTP/1.1", kind, end)) == {}


@each_exit
@each_version
@each_end
def test_plain_http_that_ends_with_its_connection_is_whole(matrix, report, end, version, exit_):
    assert report(matrix.download(exit_, version, RequestKind.PLAIN, end)) == {}


@each_exit
@each_version
def test_grpc_call_within_tunnel_is_whole(matrix, report, version, exit_):
    """Its client ends the tunnel, after the status of the call."""
    assert report(matrix.download(exit_, version, RequestKind.CONNECT, "gRPC")) == {}


@each_exit
def test_upload_is_whole_when_client_waits_for_answer(matrix, exit_):
    for _ in range(EACH):
        with closing(matrix.open(exit_, "HTTP/1.1", RequestKind.CONNECT, "upload")) as tunnel:
            tunnel.sendall(CONTENT)
            assert tunnel.recv(len(ANSWER)) == ANSWER
        assert matrix.uploaded.get(timeout=BOUND_S) == len(CONTENT)


@each_exit
def test_upload_of_200_kb_is_whole_when_client_closes_at_once(matrix, exit_):
    for _ in range(EACH):
        with closing(matrix.open(exit_, "HTTP/1.1", RequestKind.CONNECT, "upload")) as tunnel:
            tunnel.sendall(CONTENT[:200_000])
        assert matrix.uploaded.get(timeout=BOUND_S) == 200_000


# -- limits of Envoy and of parents ------------------------------------------------------------------------------------


@each_tunnel
@each_end
def test_tunnel_of_http2_client_ends_by_reset_of_stream(matrix, report, end, kind, exit_):
    """Each loses its last bytes, and its client is told."""
    downloads = matrix.download(exit_, "HTTP/2", kind, end)
    report(downloads)
    errors = {each.error.partition(" ")[0] for made in downloads.values() for each in made}
    assert errors == {"RST_STREAM"}


def test_parent_without_upgrades_answers_websocket_as_plain_http(matrix):
    """gluetun is one; within a CONNECT, its clients have WebSockets."""
    with closing(matrix.open("parent", "HTTP/1.1", RequestKind.WEBSOCKET, "FIN")) as stream:
        assert stream.status == 200


@each_exit
def test_upload_of_8_mib_may_lose_its_end_when_client_closes_at_once(matrix, record_property, exit_):
    received = []
    for _ in range(EACH):
        with closing(matrix.open(exit_, "HTTP/1.1", RequestKind.CONNECT, "upload")) as tunnel:
            tunnel.sendall(CONTENT)
        received.append(matrix.uploaded.get(timeout=BOUND_S))
    record_property("whole", f"{received.count(len(CONTENT))} of {EACH}")
    assert min(received) >= 200_000


@each_exit
def test_answer_to_half_closed_tunnel_never_comes(matrix, exit_):
    with closing(matrix.open(exit_, "HTTP/1.1", RequestKind.CONNECT, "upload")) as tunnel:
        tunnel.sendall(CONTENT[:200_000])
        tunnel.end_sending()
        assert matrix.uploaded.get(timeout=BOUND_S) == 200_000
        assert tunnel.recv(len(ANSWER)) == b""
