"""Fixtures of the tunnel tests: the lab, its page and resolver, and a supervised tunnel of an exit."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from aiohttp import web

from agent.config.settings import ExitSettings
from agent.config.status import StatusBoard, wait
from agent.vpn.managed_tunnel import ManagedTunnel
from agent.vpn.servers import read_servers
from agent.vpn.tunnel_health import TunnelMonitor
from agent.vpn.tunnel_supervisor import RetryPace
from model.authority import create_authority
from model.endpoint import Endpoint
from tests.agent.conftest import Plane, Source
from tests.server.fault_proxy import FaultProxy
from tests.tunnels import lab, providers

PATIENCE_S = 120.0
"""A timeout for short operations on a busy machine."""
PACE = RetryPace(check_s=0.1, retry_base_s=0.1, retry_limit_s=0.2, resolver_s=0.5)


@pytest.fixture
def until(until):
    """Give `until` with the lab's timeout."""
    return functools.partial(until, timeout_s=PATIENCE_S)


@pytest.fixture
def waits(monkeypatch):
    """Record how long a tunnel supervisor means to wait each time, in seconds."""
    asked: list[float] = []

    async def note(event: asyncio.Event, timeout_s: float) -> bool:
        asked.append(timeout_s)
        return await wait(event, timeout_s)

    monkeypatch.setattr("agent.vpn.tunnel_supervisor.wait", note)
    return asked


@pytest.fixture
def network():
    """Build the lab's namespaces and cable."""
    if (reason := lab.why_no_lab()) is not None:
        pytest.skip(f"no tunnels: {reason}")
    with lab.built():
        yield


@pytest.fixture
def processes(network, tmp_path):
    started = lab.Processes(tmp_path)
    yield started
    started.end()


@pytest.fixture
def wireguard(processes):
    """Start a provider."""
    provider = providers.WireGuardProvider(processes)
    provider.start()
    return provider


@pytest.fixture
def openvpn(processes, tmp_path):
    """Start a provider."""
    folder = tmp_path / "provider"
    folder.mkdir()
    provider = providers.OpenVpnProvider(processes, folder)
    provider.start()
    return provider


@pytest.fixture
def in_exit(network):
    """Run the test, and the processes that it starts, in the exit's namespace."""
    with lab.inside(lab.EXIT):
        yield


@dataclass
class Internet:
    """A page on port 80 that returns the client's address, at /json as a source does, and a resolver.

    Both listen on all addresses. The resolver answers every name with the page's address.
    """

    callers: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    countries: dict[str, str] = field(default_factory=dict)
    """Countries of client addresses, for the source at /where."""

    async def answer(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            asked = await reader.readuntil(b"\r\n\r\n")
            caller = body = writer.get_extra_info("peername")[0]
            self.callers.append(caller)
            if asked.startswith(b"GET /json "):
                body = json.dumps({"ip": caller, "country": "DE"})
            if asked.startswith(b"GET /where "):
                address = caller.removeprefix("::ffff:")
                body = json.dumps({"ip": address, "country": self.countries.get(address)})
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            writer.write((head + body).encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            return
        writer.transport.abort()


class _Resolver(asyncio.DatagramProtocol):
    def __init__(self, internet):
        self._internet = internet

    def connection_made(self, transport):
        self._transport = transport

    def datagram_received(self, data, addr):
        self._internet.questions.append(addr[0])
        end = data.index(b"\0", 12) + 5
        asks_for_address = data[end - 4 : end - 2] == b"\0\1"
        counts = b"\0\1\0\1\0\0\0\0" if asks_for_address else b"\0\1\0\0\0\0\0\0"
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x05\0\4" + socket.inet_aton(lab.PAGE) if asks_for_address else b""
        self._transport.sendto(data[:2] + b"\x81\x80" + counts + data[12:end] + record, addr)


@dataclass
class PlaneOutside(Plane):
    """A stand-in for the control plane, on the provider's side of the cable."""

    host: str = lab.NET_ADDRESS

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/api/v1/{kind}/register", self._enrol)
        app.router.add_post("/api/v1/{kind}/{id}/heartbeat", self._receive_heartbeat)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        with lab.inside(lab.NET):
            listening = socket.create_server((self.host, 0))
        await web.SockSite(self.runner, listening).start()
        self.port = listening.getsockname()[1]
        self.url = f"http://{self.host}:{self.port}"


@pytest.fixture
async def plane(network):
    standing_in = PlaneOutside(create_authority(datetime.now(UTC)), xds_port=18000)
    await standing_in.start()
    yield standing_in
    await standing_in.stop()


@pytest.fixture
def start_agent(plane, processes, tmp_path):
    """Give `start_agent([FILE, …], *options)`, which starts an exit's agent as a process in the exit's namespace."""

    def begin(files: Sequence[str], *options: str) -> subprocess.Popen[bytes]:
        (tmp_path / "token").write_text("ep-exit-never-to-be-seen\n")
        tunnels = [word for path in write_files(tmp_path, files) for word in ("--tunnel", str(path))]
        if (credentials := write_credentials(tmp_path, files)) is not None:
            tunnels += ["--tunnel-credentials", str(credentials)]
        return processes.start(
            lab.EXIT,
            *(sys.executable, "-m", lab.AGENT, "agent", "--role", "exit", "--api", plane.url, "--name", "us-1"),
            *("--token-file", str(tmp_path / "token"), "--state", str(tmp_path / "agent"), "--concurrency", "1"),
            *("--pool", "us", "--address", lab.EXIT_ADDRESS, "--port", str(lab.PORT)),
            *("--tunnel-interface", lab.TUNNEL, *tunnels, *options),
            log="agent.log",
            cwd=lab.ROOT,
        )

    return begin


@pytest.fixture
def agent_pid():
    """Give a function that returns the process id of the agent."""

    def find() -> int:
        (pid,) = lab.inhabitants(lab.EXIT, lab.AGENT)
        return pid

    return find


_OF_THE_PAGE = ("Internet.answer", "BaseSelectorEventLoop._accept_connection2")


@dataclass
class SourceOutside(Source):
    """A stand-in for the ADS server, on the provider's side of the cable. It restarts on the same port.

    gRPC's threads stay in the network namespace in which they start. So the server listens on a Unix socket, and a listener in the
    provider's namespace forwards to it.
    """

    host: str = lab.NET_ADDRESS

    async def start(self) -> None:
        await super().start()
        with lab.inside(lab.NET):
            listening = socket.create_server((self.host, self.port))
        self.port = listening.getsockname()[1]
        self._way = contextlib.AsyncExitStack()
        path = self.target.removeprefix("unix:")
        await self._way.enter_async_context(FaultProxy(lambda: asyncio.open_unix_connection(path)).run(listening))

    async def stop(self) -> None:
        await self._way.aclose()
        await super().stop()

    def _bind(self, server: grpc.aio.Server) -> None:
        server.add_secure_port(self.target, self._credentials())


@pytest.fixture
async def source(plane, tmp_path):
    """Start an ADS server without resources, on the provider's side of the cable, at the control plane's address."""
    standing_in = SourceOutside(f"unix:{tmp_path}/ads.sock", plane.authority, host=plane.host)
    await standing_in.start()
    plane.xds_port = standing_in.port
    yield standing_in
    await standing_in.stop()


@pytest.fixture
def capture(network):
    """Capture the outer link."""
    taken = lab.Capture()
    yield taken
    taken.close()


@pytest.fixture
async def internet(network):
    """Serve the page and the resolver in this test's event loop, on sockets of the provider's namespace."""
    made = Internet()
    with lab.inside(lab.NET):
        pages = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
        # answers from the page's address must have it as their source
        names = [_bound_to(address) for address in ("0.0.0.0", lab.PAGE)]
    for each in (pages, *names):
        each.setblocking(False)
    server = await asyncio.start_server(made.answer, sock=pages)
    loop = asyncio.get_running_loop()
    resolvers = [await loop.create_datagram_endpoint(lambda: _Resolver(made), sock=each) for each in names]
    yield made
    for transport, _ in resolvers:
        transport.close()
    server.close()
    while left := [task for task in asyncio.all_tasks() if task.get_coro().__qualname__ in _OF_THE_PAGE]:
        for task in left:
            if task.get_coro().__qualname__ == _OF_THE_PAGE[0]:
                task.cancel()
        await asyncio.wait(left, timeout=1)


def _bound_to(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, 53))
    return made


async def fetch(address: str, *, within_s: float = PATIENCE_S) -> str:
    """Return the client address that the page sees, without an IPv4-mapped prefix."""
    async with asyncio.timeout(within_s):
        reader, writer = await asyncio.open_connection(address, 80)
        try:
            writer.write(b"GET / HTTP/1.1\r\nhost: page\r\n\r\n")
            answer = await reader.read()
        finally:
            writer.close()
    return answer.decode().rpartition("\r\n")[2].removeprefix("::ffff:")


@dataclass
class SupervisedTunnel:
    """A tunnel under test."""

    tunnel: ManagedTunnel
    board: StatusBoard
    resolvers: list[tuple[str, ...]]
    living: asyncio.Task[None]
    exit_: ExitSettings

    def ended(self) -> bool:
        return self.living.done()

    def says(self, words: str) -> bool:
        return self.board.report.tunnel == "down" and words in self.board.report.reason

    @property
    def is_up(self) -> bool:
        return self.board.report.tunnel == "up"


@pytest.fixture
def run_tunnel(in_exit, tmp_path):
    """Give `async with run_tunnel(FILE, …) as running`: a tunnel from the texts of files, supervised and monitored as in an agent."""

    @contextlib.asynccontextmanager
    async def begin(*files: str, kill_switch=True, resolvers=(), interface=lab.TUNNEL, sources=(), pace=PACE, **more):
        state = tmp_path / "state"
        state.mkdir(mode=0o700, exist_ok=True)
        exit_ = ExitSettings(
            pool="us",
            address=lab.EXIT_ADDRESS,
            port=8443,
            tunnel_interface=interface,
            servers=read_servers(write_files(tmp_path, files), write_credentials(tmp_path, files, **more)),
            resolvers=resolvers,
            kill_switch=kill_switch,
            sources=sources,
        )
        board = StatusBoard()
        resolvers_of_tunnels = []

        async def record(resolvers):
            resolvers_of_tunnels.append(resolvers)

        tunnel = ManagedTunnel(exit_, [Endpoint(lab.NET_ADDRESS, 8000)], state, board, record, pace)
        watch = TunnelMonitor(tunnel.probes(), board, 0.05)

        async def live():
            async with asyncio.TaskGroup() as tasks:
                await tunnel.start(tasks)
                tasks.create_task(watch.run())

        living = asyncio.create_task(live())
        try:
            yield SupervisedTunnel(tunnel, board, resolvers_of_tunnels, living, exit_)
        finally:
            living.cancel()
            ended = await asyncio.gather(living, return_exceptions=True)
            await tunnel.stop()
            for error in ended:
                if isinstance(error, Exception):
                    raise error

    return begin


def write_files(folder: Path, texts: Sequence[str]) -> list[Path]:
    paths = []
    for number, text in enumerate(texts):
        path = folder / f"tunnel{number}.{'ovpn' if '<ca>' in text else 'conf'}"
        path.write_text(text)
        paths.append(path)
    return paths


def write_credentials(folder: Path, texts: Sequence[str], user=providers.USER, password=providers.PASSWORD):
    if not any("auth-user-pass" in text for text in texts):
        return None
    path = folder / "credentials"
    path.write_text(f"{user}\n{password}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def ask_page():
    return fetch
