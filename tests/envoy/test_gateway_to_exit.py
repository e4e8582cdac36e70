"""The hop between a real gateway and real exits: its protocol and connections, also while releases are mixed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseRequestHandler, ThreadingTCPServer
from types import SimpleNamespace
from typing import Any

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import Http1ProtocolOptions
from envoy_data_plane.envoy.config.core.v3 import HttpProtocolOptions as CommonHttpOptions
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.extensions.clusters.dynamic_forward_proxy.v3 import ClusterConfig
from envoy_data_plane.envoy.extensions.common.dynamic_forward_proxy.v3 import DnsCacheConfig
from envoy_data_plane.envoy.extensions.filters.http.dynamic_forward_proxy.v3 import FilterConfig
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import DownstreamTlsContext, UpstreamTlsContext
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptions, HttpProtocolOptionsAutoHttpConfig
from envoy_data_plane.envoy.type.matcher.v3 import AddressMatcher

from agent.envoy.admin import Admin
from agent.envoy.silent_exits import end_unanswered_requests
from model.entities import RESILIENCE, Parent
from model.world import World, put
from tests.envoy.envoy_process import BOUND_S, EnvoyUnderTest, eventually
from tests.envoy.static_gateway import exchange
from tests.envoy.two_hops import POOL, TwoHops, make_exit, two_hops
from tests.envoy.world_server import RunningEnvoy, WorldServer
from tests.gluetun import GluetunStandIn, running
from tests.servers import serving
from xds.translate import names
from xds.translate.clusters import http_options
from xds.translate.encoding import Message, encode, pack
from xds.translate.http import http2_options
from xds.translate.resource_ids import ResourceId
from xds.translate.scopes import Scope, scopes_of

pytestmark = pytest.mark.envoy
CLUSTER = f"cluster.{names.pool_cluster(POOL)}"
NAME = "target.example.com"
US = [("exit-country", "us")]


class _Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_):
        pass


class _End(BaseRequestHandler):
    """Ends a tunnel after its first byte."""

    def handle(self):
        if self.request.recv(1):
            self.request.sendall(bytes(1024))


@pytest.fixture(scope="module")
def stand_in() -> Iterator[GluetunStandIn]:
    with running(GluetunStandIn(names={NAME: "127.0.0.1"})) as started:
        yield started


@pytest.fixture(scope="module")
def hops(tmp_path_factory) -> Iterator[TwoHops]:
    """A gateway and an exit without a parent."""
    with two_hops(tmp_path_factory.mktemp("direct"), make_exit(1, None, egress_address="127.0.0.1")) as started:
        wait_until_healthy(started)
        yield started


@pytest.fixture(scope="module")
def behind_parent(stand_in, tmp_path_factory) -> Iterator[TwoHops]:
    """A gateway and an exit with a parent."""
    parent = Parent("127.0.0.1", stand_in.proxy_port)
    with two_hops(tmp_path_factory.mktemp("parent"), make_exit(1, parent)) as started:
        wait_until_healthy(started)
        yield started


def wait_until_healthy(hops: TwoHops) -> None:
    eventually(lambda: hops.gateway.stat(f"{CLUSTER}.membership_healthy") == len(hops.exits))


@pytest.fixture(params=["hops", "behind_parent"], ids=["direct", "parent"])
def either(request) -> tuple[TwoHops, str]:
    """A gateway and an exit, without a parent and with one, and the host by which it reaches this machine."""
    return request.getfixturevalue(request.param), "127.0.0.1" if request.param == "hops" else NAME


@contextmanager
def tunnel(hops: TwoHops, authority: str) -> Iterator[socket.socket]:
    """Open a tunnel."""
    with closing(socket.create_connection(("127.0.0.1", hops.gateway.ports["clients"]), timeout=BOUND_S)) as client:
        client.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nexit-country: us\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            more = client.recv(1)
            assert more, head
            head += more
        assert head.split()[1] == b"200", head
        yield client


def test_each_tunnel_has_its_own_connection_to_the_exit(either):
    hops, host = either
    with serving(ThreadingTCPServer(("127.0.0.1", 0), _End)) as port, ExitStack() as opened:
        for _ in range(20):
            opened.enter_context(tunnel(hops, f"{host}:{port}"))
        assert hops.gateway.stat(f"{CLUSTER}.upstream_cx_active") >= 20
        assert hops.gateway.stat(f"{CLUSTER}.upstream_cx_http2_total") == 0


def test_tunnels_that_their_target_ends_do_not_eject_the_exit(either):
    """They end one after another without a success between them, so that they count as consecutive failures."""
    hops, host = either
    failures = f"{CLUSTER}.outlier_detection.ejections_detected_consecutive_local_origin_failure"
    before = hops.gateway.stat(failures)
    with serving(ThreadingTCPServer(("127.0.0.1", 0), _End)) as port, ExitStack() as opened:
        clients = [opened.enter_context(tunnel(hops, f"{host}:{port}")) for _ in range(12)]
        for client in clients:
            client.sendall(b"?")
        for client in clients:
            while client.recv(65_536):
                pass
        eventually(lambda: hops.gateway.stat(failures) > before)
        assert hops.gateway.stat(f"{CLUSTER}.outlier_detection.ejections_enforced_total") == 0
        assert hops.gateway.stat(f"{CLUSTER}.membership_healthy") == 1
        with tunnel(hops, f"{host}:{port}"):
            pass


# -- an exit that freezes ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="ending a connection takes CAP_NET_ADMIN")
def test_no_request_waits_for_an_exit_that_froze(tmp_path_factory):
    """Requests that were sent on ready connections, before a check failed, are retried once the agent has ended those."""
    exits = [make_exit(number, None, egress_address="127.0.0.1") for number in (1, 2)]
    with (
        two_hops(tmp_path_factory.mktemp("frozen"), *exits) as hops,
        serving(ThreadingTCPServer(("127.0.0.1", 0), _End)) as port,
        ExitStack() as opened,
        ThreadPoolExecutor(24) as threads,
    ):
        hops.change(put(replace(POOL, resilience=RESILIENCE)))
        eventually(lambda: hops.gateway.stat("cluster_manager.cluster_modified") == 1)
        wait_until_healthy(hops)
        for _ in range(12):
            opened.enter_context(tunnel(hops, f"127.0.0.1:{port}"))
        retries = hops.gateway.stat(f"{CLUSTER}.upstream_rq_retry")

        def was_retried() -> bool:
            """Freeze an exit. On a busy machine all requests may come after the checks have found it."""
            wait_until_healthy(hops)
            with frozen(hops.exits[exits[0].id]):
                asked = [threads.submit(open_and_close, hops, f"127.0.0.1:{port}") for _ in range(24)]
                for each in asked:
                    each.result(BOUND_S)
            return hops.gateway.stat(f"{CLUSTER}.upstream_rq_retry") > retries

        with agent_of(hops):
            eventually(was_retried)


@contextmanager
def frozen(exit_: RunningEnvoy) -> Iterator[None]:
    os.kill(exit_.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(exit_.process.pid, signal.SIGCONT)


class AdminByPort(Admin):
    """The admin interface of an Envoy without a state folder."""

    def __init__(self, process: EnvoyUnderTest) -> None:
        self._process = process

    async def _request(self, method: str, path: str) -> str:
        return (await asyncio.to_thread(self._process.admin, path, method))[1]


@contextmanager
def agent_of(hops: TwoHops) -> Iterator[None]:
    """Run what the gateway's agent does about silent exits."""
    loop = asyncio.new_event_loop()

    async def run() -> None:
        process = hops.gateway.process
        envoy = SimpleNamespace(admin=AdminByPort(process), pid=process.pid)
        await end_unanswered_requests(envoy, period_s=0.05, silent_s=0.5)

    task = loop.create_task(run())
    with closing(loop), ThreadPoolExecutor(1) as thread:
        done = thread.submit(loop.run_until_complete, asyncio.wait([task]))
        try:
            yield
        finally:
            loop.call_soon_threadsafe(task.cancel)
            done.result(BOUND_S)


def open_and_close(hops: TwoHops, authority: str) -> None:
    with tunnel(hops, authority):
        pass


# -- a gateway and an exit of different releases -----------------------------------------------------------------------


@dataclass
class FirstRelease:
    """A scope as release 0.1 translated it: exits without a parent speak HTTP/2, and gateways take what an exit offers."""

    scope: Scope

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scope, name)

    def translate(self, world: World, resource: ResourceId) -> Message | None:
        message = self.scope.translate(world, resource)
        if resource.type_url == names.LISTENER and resource.name == names.EXIT_LISTENER and message is not None:
            return _exit_listener(Listener.parse(encode(message)))
        if resource.name == names.TARGETS and resource.type_url == names.CLUSTER and message is not None:
            return _targets(Cluster.parse(encode(message)))
        if resource.type_url == names.CLUSTER and resource.name == names.pool_cluster(POOL) and message is not None:
            return _pool_cluster(Cluster.parse(encode(message)))
        return message


def _exit_listener(listener: Listener) -> Listener:
    (chain,) = listener.filter_chains
    manager = HttpConnectionManager.parse(chain.filters[0].typed_config.value)
    manager.codec_type = HttpConnectionManagerCodecType.HTTP2
    manager.scheme_header_transformation = None
    del manager.http_filters[0]  # the admission of each request
    resolver = FilterConfig.parse(manager.http_filters[1].typed_config.value)
    manager.http_filters[1].typed_config = pack(replace(resolver, dns_cache_config=_targets_cache(resolver)))
    chain.filters[0].typed_config = pack(manager)
    tls = DownstreamTlsContext.parse(chain.transport_socket.typed_config.value)
    tls.common_tls_context.alpn_protocols = ["h2"]
    chain.transport_socket.typed_config = pack(tls)
    listener.tcp_keepalive = None
    return listener


def _targets(cluster: Cluster) -> Cluster:
    config = ClusterConfig.parse(cluster.cluster_type.typed_config.value)
    cluster.cluster_type.typed_config = pack(replace(config, dns_cache_config=_targets_cache(config)))
    return cluster


def _targets_cache(config: FilterConfig | ClusterConfig) -> DnsCacheConfig:
    """Return the cache of the first release, with other forbidden networks than now."""
    cache = config.dns_cache_config
    return replace(
        cache, name="targets", resolved_address_filter=AddressMatcher(ranges=cache.resolved_address_filter.ranges[:-1])
    )


def _pool_cluster(cluster: Cluster) -> Cluster:
    tls = UpstreamTlsContext.parse(cluster.transport_socket.typed_config.value)
    tls.max_session_keys = None
    cluster.transport_socket.typed_config = pack(tls)
    cluster.preconnect_policy = None
    either = HttpProtocolOptionsAutoHttpConfig(
        http_protocol_options=Http1ProtocolOptions(), http2_protocol_options=http2_options()
    )
    common = CommonHttpOptions(max_requests_per_connection=500)
    cluster.typed_extension_protocol_options = http_options(
        HttpProtocolOptions(common_http_protocol_options=common, auto_config=either)
    )
    return cluster


def publish(server: WorldServer, *, first_release: bool) -> None:
    """Publish a proxy's resources as a release translates them, and wait until its Envoy has accepted them."""
    answers = len(server.answers)
    wrap = FirstRelease if first_release else (lambda scope: scope)
    server.scopes = lambda proxy, world: [wrap(scope) for scope in scopes_of(proxy, world)]
    server.change()
    eventually(lambda: len(server.answers) > answers)
    assert not [answer.error for answer in server.answers if answer.error]


@dataclass
class MixedRequests:
    """Clients that repeat requests of three kinds, and what each request ended in."""

    hops: TwoHops
    port: int
    results: Counter[str] = field(default_factory=Counter)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stopped.is_set():
            for ask in (partial(self._ask, "GET"), partial(self._ask, "POST"), self._echo):
                try:
                    self.results[ask()] += 1
                except (OSError, AssertionError) as error:
                    self.results[repr(error)] += 1

    def _ask(self, method: str) -> str:
        url = f"http://127.0.0.1:{self.port}/"
        status, text, _ = exchange(self.hops.gateway.ports["clients"], url, US, method)
        return f"{method} {status} {text}"

    def _echo(self) -> str:
        with tunnel(self.hops, f"127.0.0.1:{self.port}") as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while more := client.recv(65_536):
                answer += more
        return f"CONNECT {answer.split()[1].decode()} {answer[-2:].decode()}"


@contextmanager
def asking(clients: MixedRequests) -> Iterator[None]:
    with ThreadPoolExecutor(3) as threads:
        running_clients = [threads.submit(clients.run) for _ in range(3)]
        try:
            yield
        finally:
            clients.stopped.set()
        for each in running_clients:
            each.result()


def test_no_request_fails_while_gateway_and_exit_change_release(tmp_path_factory):
    """The proxies of a fleet take up a release one after another: every mixture of two releases serves."""
    exit_ = make_exit(1, None, egress_address="127.0.0.1")
    with two_hops(tmp_path_factory.mktemp("releases"), exit_) as hops, serving_pages() as port:
        wait_until_healthy(hops)
        protocols = {each: f"{CLUSTER}.upstream_cx_{each}_total" for each in ("http1", "http2")}
        clients, used = MixedRequests(hops, port), []

        def take_up(server: WorldServer, *, first_release: bool) -> None:
            publish(server, first_release=first_release)
            served = clients.results.total()
            before = {each: hops.gateway.stat(name) for each, name in protocols.items()}
            eventually(lambda: clients.results.total() > served + 60)
            used.append({each for each, name in protocols.items() if hops.gateway.stat(name) > before[each]})

        with asking(clients):
            for first_release in (True, False):
                take_up(hops.servers[exit_.id], first_release=first_release)
                take_up(hops.gateway_server, first_release=first_release)
        assert {*clients.results} == {"GET 200 ok", "POST 200 ok", "CONNECT 200 ok"}, clients.results
        assert [each & {"http1"} for each in used[2:]] == [{"http1"}] * 2, used  # the mixtures differed


def serving_pages() -> AbstractContextManager[int]:
    """Serve pages, and yield the port."""
    return serving(ThreadingHTTPServer(("127.0.0.1", 0), _Page))


# -- a stranger --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_exit_closes_connections_without_a_handshake(hops):
    (exit_,) = hops.exits.values()
    with closing(socket.create_connection(("127.0.0.1", exit_.ports[names.EXIT_LISTENER]), timeout=BOUND_S)) as idle:
        assert idle.recv(1) == b""
    assert (
        exit_.stat(
            f"listener.127.0.0.1_{exit_.ports[names.EXIT_LISTENER]}.downstream_cx_transport_socket_connect_timeout"
        )
        == 1
    )
