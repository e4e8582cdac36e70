"""The kill switch, checked by a capture of the cable while tunnels fail and return under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field

import pytest

from agent.vpn.managed_tunnel import open_kill_switch
from tests.agent.conftest import Plane
from tests.tunnels import lab, providers
from tests.tunnels.conftest import PATIENCE_S

pytestmark = [pytest.mark.tunnels, pytest.mark.timeout(600), pytest.mark.envoy]

PORT = lab.PORT
SECOND_PORT = 51821
TIMES = 12
THROUGH_TUNNEL = ("page0", "page1", "page2", "page3", "page by IPv6")
_DROPPED_S = 0.5
"""The wait of a client that expects no answer."""


@dataclass
class ClientLoad:
    """Clients in the exit's namespace that request pages and names all the time, and some that try to bypass the tunnel."""

    tried: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)
    """Clients whose requests failed, with the reason."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def begin(self, resolver: str, *, to_provider: bool = True, page_within_s: float = 1.0) -> None:
        for name in THROUGH_TUNNEL[:4]:
            self._go(name, lambda: self._fetch(lab.PAGE), page_within_s)
        self._go(THROUGH_TUNNEL[4], lambda: self._fetch(lab.PAGE_6), page_within_s)
        self._go("page from the outer address", lambda: self._fetch(lab.PAGE, source=lab.EXIT_ADDRESS))
        self._go("page by the outer link", lambda: self._fetch(lab.PAGE, device=lab.OUTER))
        self._go("page by the outer link and IPv6", lambda: self._fetch(lab.PAGE_6, device=lab.OUTER))
        for place in (resolver, lab.NET_ADDRESS, lab.PAGE):
            self._go(f"name of {place}", lambda place=place: self._look_up(place, 53))
        if to_provider:  # to its own server, outside the tunnel
            self._go("provider", lambda: self._look_up(lab.NET_ADDRESS, providers.WG_PORT))

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _go(self, name: str, act, within_s: float = _DROPPED_S) -> None:
        async def loop():
            while True:
                self.tried[name] += 1
                try:
                    async with asyncio.timeout(within_s):
                        await act()
                except (OSError, TimeoutError) as error:
                    self.failures.append((name, repr(error)))
                    await asyncio.sleep(0.05)
                else:
                    self.done[name] += 1
                    await asyncio.sleep(0.01)

        self._tasks.append(asyncio.create_task(loop()))

    async def _fetch(self, address, source=None, device=None) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        loop = asyncio.get_running_loop()
        with contextlib.closing(_socket(family, socket.SOCK_STREAM, device)) as asking:
            if source:
                asking.bind((source, 0))
            await loop.sock_connect(asking, (address, 80))
            await loop.sock_sendall(asking, b"GET / HTTP/1.1\r\nhost: page\r\n\r\n")
            assert (await loop.sock_recv(asking, 100)).startswith(b"HTTP/1.1 200")

    async def _look_up(self, resolver, port) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.closing(_socket(socket.AF_INET, socket.SOCK_DGRAM, None)) as asking:
            asking.connect((resolver, port))
            await loop.sock_sendall(asking, b"\7\7\1\0\0\1\0\0\0\0\0\0\4page\3lab\0\0\1\0\1")
            await loop.sock_recv(asking, 512)


def _socket(family, kind, device):
    with lab.inside(lab.EXIT):
        made = socket.socket(family, kind)
    made.setblocking(False)
    if device:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    return made


@pytest.fixture
async def load():
    clients = ClientLoad()
    yield clients
    await clients.end()


def leaks(frames: list[bytes], plane: Plane) -> list[tuple[str, str, str, int, int]]:
    """Return the packets that are neither the tunnel's, nor the agent's, nor answers to gateways, nor neighbour discovery."""
    found = []
    for frame in frames:
        kind, source, target, source_port, port = seen = lab.describe(frame)
        to_server = (kind, target) == ("udp", lab.NET_ADDRESS) and port in {providers.WG_PORT, SECOND_PORT}
        tunnel = to_server and is_wireguard(frame[14 + 28 :])
        agent = (kind, target) == ("tcp", lab.NET_ADDRESS) and port in {plane.port, plane.xds_port}
        answer = (kind, source, source_port) == ("tcp", lab.EXIT_ADDRESS, PORT)
        if not (tunnel or agent or answer or kind in {"arp", "icmp6:133", "icmp6:135", "icmp6:136"}):
            found.append(seen)
    return found


def is_wireguard(payload: bytes) -> bool:
    """Return True for a message of WireGuard: a type from 1 to 4, and three zero bytes."""
    return payload[:1] in {b"\1", b"\2", b"\3", b"\4"} and payload[1:4] == b"\0\0\0"


def is_closed() -> bool:
    command = ("ip", "netns", "exec", lab.EXIT, "nft", "list", "table", "inet", "exitplane")
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


async def answers_gateways() -> bool:
    """Return True if a connection to the exit's port is answered, be it by a refusal."""
    with lab.inside(lab.NET):
        gateway = socket.socket()
    gateway.setblocking(False)
    with contextlib.closing(gateway):
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.get_running_loop().sock_connect(gateway, (lab.EXIT_ADDRESS, PORT))
        except TimeoutError:
            return False
        except ConnectionRefusedError:
            return True
    return True


@pytest.mark.slow
async def test_no_packet_leaves_outside_tunnel_at_any_time(
    plane, processes, internet, start_agent, agent_pid, load, capture, until
):
    provider = providers.WireGuardProvider(processes)
    agent = start_agent([provider.file()])
    await until(is_closed)
    capture.take().clear()
    load.begin(provider.server)

    # before the first handshake
    await until(lambda: plane.said(tunnel="down"))
    await until(lambda: min(load.tried.values()) >= 3)
    assert not load.done
    assert await answers_gateways()

    # while the tunnel fails and returns, in three ways
    await asyncio.to_thread(provider.start)
    for turn in range(TIMES):
        await until(lambda: plane.said(tunnel="up"))
        before = load.done["page0"]
        await until(lambda: load.done["page0"] > before + 20)  # noqa: B023
        capture.take()
        if turn % 3 == 0:
            lab.ip("link", "delete", lab.TUNNEL, namespace=lab.EXIT)
        elif turn % 3 == 1:
            # the previous process may not have ended yet
            (pid,) = await until(lambda: len(found := lab.inhabitants(lab.EXIT, "wireguard-go")) == 1 and found)
            os.kill(pid, signal.SIGKILL)
        else:
            provider.stop()
            await asyncio.to_thread(provider.start)
    await until(lambda: plane.said(tunnel="up"))
    await until(lambda: {*internet.callers} == {f"::ffff:{provider.address}", provider.address_6})
    await until(lambda: {*internet.questions} == {provider.address})

    # after the agent and its children were killed
    os.kill(agent_pid(), signal.SIGKILL)
    await until(lambda: not lab.inhabitants(lab.EXIT, "wireguard-go"))
    agent.wait()
    tried = load.tried["page0"]
    await until(lambda: load.tried["page0"] > tried + 20)
    assert is_closed()

    frames = capture.take()
    assert capture.lost == 0
    assert leaks(frames, plane) == []
    tunnelled = sum(is_wireguard(frame[42:]) for frame in frames if lab.describe(frame)[0] == "udp")
    assert tunnelled > 20 * TIMES
    forced = [name for name in load.done if "outer" in name or name == "provider"]
    assert forced == []


def is_gone(interface: str) -> bool:
    return not lab.has_interface(lab.EXIT, interface)


@pytest.mark.slow
async def test_no_packet_leaves_outside_tunnels_during_rotations(
    plane, wireguard, internet, start_agent, agent_pid, load, capture, until
):
    other = providers.WireGuardProvider(wireguard.processes, interface="eptun-w2", port=SECOND_PORT, number=97)
    other.start()
    start_agent([wireguard.file(), other.file()], "--dns", lab.PAGE)
    await until(lambda: plane.said(tunnel="up"))
    capture.take().clear()
    load.begin(lab.PAGE, page_within_s=PATIENCE_S)
    await until(lambda: all(load.done[each] > 20 for each in THROUGH_TUNNEL))

    for turn in range(10):
        new, old = (other, wireguard) if turn % 2 == 0 else (wireguard, other)
        before = len(internet.callers)
        os.kill(agent_pid(), signal.SIGUSR1)
        await until(lambda: {f"::ffff:{new.address}", new.address_6} <= {*internet.callers[before:]})  # noqa: B023
        gone = lab.TUNNEL if turn % 2 == 0 else lab.OTHER_SLOT
        await until(lambda: asyncio.to_thread(is_gone, gone))  # noqa: B023
        capture.take()
        assert old.process.poll() is None

    assert [each for each in load.failures if each[0] in THROUGH_TUNNEL] == []
    assert capture.lost == 0
    assert leaks(capture.take(), plane) == []
    assert [name for name in load.done if "outer" in name or name == "provider"] == []
    assert {*internet.callers} == {
        *(f"::ffff:{each.address}" for each in (wireguard, other)),
        *(each.address_6 for each in (wireguard, other)),
    }


@pytest.mark.slow
async def test_capture_sees_leak_without_kill_switch(
    plane, wireguard, internet, start_agent, agent_pid, load, capture, until
):
    agent = start_agent([wireguard.file()], "--no-kill-switch")
    await until(lambda: plane.said(tunnel="up"))
    assert not is_closed()
    load.begin(wireguard.server)
    await until(lambda: load.done["page by the outer link"] > 3)
    os.kill(agent_pid(), signal.SIGTERM)
    await asyncio.to_thread(agent.wait, PATIENCE_S)
    missing = {
        ("tcp", lab.PAGE, 80),
        ("tcp", lab.PAGE_6, 80),
        ("udp", lab.NET_ADDRESS, 53),
        ("udp", lab.NET_ADDRESS, providers.WG_PORT),
    }

    def all_leaked() -> bool:
        missing.difference_update((kind, to, port) for kind, _, to, _, port in leaks(capture.take(), plane))
        capture.frames.clear()
        return not missing

    await until(all_leaked)
    await until(lambda: f"::ffff:{lab.EXIT_ADDRESS}" in internet.callers)


@pytest.mark.slow
async def test_kill_switch_outlives_agent_and_opens_on_demand(
    plane, wireguard, internet, start_agent, agent_pid, until
):
    agent = start_agent([wireguard.file()])
    await until(lambda: plane.said(tunnel="up"))
    os.kill(agent_pid(), signal.SIGTERM)
    assert await asyncio.to_thread(agent.wait, PATIENCE_S) == 0
    assert is_closed()
    assert not lab.has_interface(lab.EXIT, lab.TUNNEL)
    assert "525" not in lab.ip("rule", namespace=lab.EXIT)

    command = ("ip", "netns", "exec", lab.EXIT, sys.executable, "-m", "cli", "agent", "--open-kill-switch")
    done = await asyncio.to_thread(subprocess.run, command, cwd=lab.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert not is_closed()
    with lab.inside(lab.EXIT):
        await open_kill_switch()  # it is idempotent
    assert not is_closed()


@pytest.mark.slow
async def test_kill_switch_closes_around_tunnel_of_somebody_else(
    plane, wireguard, processes, internet, start_agent, load, capture, until, tmp_path
):
    providers.connect(wireguard, processes)
    start_agent([], "--tunnel-endpoint", f"udp:{lab.NET_ADDRESS}:{providers.WG_PORT}")
    await until(lambda: plane.said(tunnel="up"))
    assert is_closed()
    bootstrap = json.loads((tmp_path / "agent" / "bootstrap.json").read_text())
    options = bootstrap["cluster_manager"]["upstream_bind_config"]["socket_options"]
    assert [each["name"] for each in options] == [socket.SO_MARK, socket.SO_BINDTODEVICE]
    capture.take().clear()
    # packets of this tunnel carry no mark, so other processes may send to its server too
    load.begin(wireguard.server, to_provider=False)
    await until(lambda: load.done["page0"] > 20)
    await until(lambda: {*internet.callers} == {f"::ffff:{wireguard.address}", wireguard.address_6})

    lab.ip("link", "delete", lab.TUNNEL, namespace=lab.EXIT)
    lab.ip("route", "replace", "default", "via", lab.NET_ADDRESS, namespace=lab.EXIT)
    lab.ip("-6", "route", "replace", "default", "via", lab.NET_ADDRESS_6, namespace=lab.EXIT)
    await until(lambda: plane.said(tunnel="down"))
    tried = load.tried["page0"]
    await until(lambda: load.tried["page0"] > tried + 20)

    assert leaks(capture.take(), plane) == []
    assert capture.lost == 0
    assert [name for name in load.done if "outer" in name] == []
    assert await answers_gateways()
