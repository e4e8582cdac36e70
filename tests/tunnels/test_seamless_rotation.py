"""Seamless rotation: no failed request, and every reason to keep the old server."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections import Counter
from dataclasses import dataclass, field

import pytest
from yarl import URL

from agent.egress.http_sources import EgressPath, query_sources
from agent.egress.observer import Observer
from agent.net.commands import run
from agent.vpn.errors import TunnelFailed
from tests.tunnels import lab, providers
from tests.tunnels.conftest import PATIENCE_S
from tests.tunnels.drain import wait_for_none_open

pytestmark = [pytest.mark.tunnels, pytest.mark.timeout(600)]
WHERE = URL(f"http://{lab.PAGE}/where")


@dataclass
class Clients:
    """Clients that request pages all the time, and the addresses that the pages saw."""

    ask: object
    failures: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def begin(self, *pages: str) -> None:
        self._tasks += [asyncio.create_task(self._loop(page)) for page in pages for _ in range(3)]

    async def _loop(self, page):
        while True:
            try:
                self.seen[await self.ask(page)] += 1
            except (OSError, TimeoutError) as error:
                self.failures.append(repr(error))
            await asyncio.sleep(0.02)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def clients(ask_page):
    made = Clients(ask_page)
    yield made
    await made.end()


@pytest.fixture
def another(wireguard):
    """Give a function that starts a second server of the provider, with another address."""

    def start(**more):
        made = providers.WireGuardProvider(
            wireguard.processes, **{"interface": "eptun-w2", "port": 51821, "number": 97, **more}
        )
        made.start()
        return made

    return start


@pytest.fixture
def twin(another, wireguard):
    """Give a function that starts a second server with the same inner address and resolver."""
    return lambda: another(number=wireguard.number, client=wireguard.client, seen_as="10.96.0.1")


async def at_once():
    """Drain without waiting."""


async def hold(page=lab.PAGE):
    """Connect a client. The result sends its request and returns the address that the page sees."""
    reader, writer = await asyncio.open_connection(page, 80)

    async def ask():
        async with asyncio.timeout(PATIENCE_S):
            writer.write(b"GET / HTTP/1.1\r\nhost: page\r\n\r\n")
            answer = await reader.read()
        writer.close()
        return answer.decode().rpartition("\r\n")[2].removeprefix("::ffff:")

    ask.port = writer.get_extra_info("sockname")[1]
    return ask


def tunnels():
    return [each for each in (lab.TUNNEL, lab.OTHER_SLOT) if lab.has_interface(lab.EXIT, each)]


async def test_no_request_fails_during_rotation(wireguard, another, internet, run_tunnel, until, clients, ask_page):
    other = another()
    async with run_tunnel(wireguard.file(), other.file(), resolvers=(lab.PAGE,)) as running:
        await until(lambda: running.is_up)
        clients.begin(lab.PAGE, lab.PAGE_6)
        await until(lambda: clients.seen[wireguard.address] > 20 and clients.seen[wireguard.address_6] > 20)
        begun = await hold()

        async def drain():
            assert running.tunnel.active.interface == lab.OTHER_SLOT
            await until(lambda: clients.seen[other.address] > 20 and clients.seen[other.address_6] > 20)
            # connections of the old tunnel stay on it
            assert await begun() == wireguard.address
            await wait_for_none_open([wireguard.address, wireguard.address_6])

        taken = await running.tunnel.rotate_seamlessly(None, None, drain)
        assert taken.server == f"{lab.NET_ADDRESS}:51821"
        assert tunnels() == [lab.OTHER_SLOT]
        before = clients.seen[other.address]
        await until(lambda: clients.seen[other.address] > before + 20)
        assert clients.failures == []
        assert running.is_up
        assert running.resolvers == [(lab.PAGE,), (lab.PAGE,)]


async def test_server_with_same_inner_address_is_taken(wireguard, twin, internet, run_tunnel, until, clients):
    other = twin()
    async with run_tunnel(wireguard.file(), other.file()) as running:
        await until(lambda: running.is_up)
        clients.begin(lab.PAGE)
        await until(lambda: clients.seen[wireguard.address] > 20)
        begun = await hold()
        # both servers are one machine in the lab: packets through the wrong one must be dropped, as they would be elsewhere
        drop = f"type filter hook input priority 0; iifname {other.interface} tcp sport {begun.port} drop"
        text = f"table ip astray {{ chain astray {{ {drop}; }}; }}\n"
        await run("ip", "netns", "exec", lab.NET, "nft", "-f", "-", text=text)

        async def drain():
            await until(lambda: clients.seen[other.seen_as] > 20)
            assert await begun() == wireguard.address

        await running.tunnel.rotate_seamlessly(None, None, drain)
        before = clients.seen.copy()
        await until(lambda: clients.seen[other.seen_as] > before[other.seen_as] + 20)
        assert clients.seen[wireguard.address] == before[wireguard.address]
        assert clients.failures == []


async def test_connections_open_after_drain_are_closed(wireguard, twin, internet, run_tunnel, until):
    other = twin()
    async with run_tunnel(wireguard.file(), other.file()) as running:
        await until(lambda: running.is_up)
        begun = await hold()
        await running.tunnel.rotate_seamlessly(None, None, at_once)
        with pytest.raises(ConnectionError):
            await begun()


async def test_dead_server_leaves_old_one_serving(wireguard, internet, run_tunnel, until, clients, monkeypatch):
    dead = providers.WireGuardProvider(wireguard.processes, port=51999, number=97)
    async with run_tunnel(wireguard.file(), dead.file()) as running:
        await until(lambda: running.is_up)
        clients.begin(lab.PAGE, lab.PAGE_6)
        await until(lambda: clients.seen[wireguard.address] > 20)
        monkeypatch.setattr("agent.vpn.wireguard.wireguard.UP_WITHIN_S", 1.0)
        with pytest.raises(TunnelFailed, match="51999 completes no handshake"):
            await running.tunnel.rotate_seamlessly(None, None, at_once)
        await still_serves(running, clients, wireguard, until)


async def test_server_in_another_country_leaves_old_one_serving(
    wireguard, another, internet, run_tunnel, until, clients
):
    other = another()
    internet.countries = {wireguard.address: "US", other.address: "FR"}
    async with run_tunnel(wireguard.file(), other.file(), sources=(WHERE,)) as running:
        await until(lambda: running.is_up)
        clients.begin(lab.PAGE)
        await until(lambda: clients.seen[wireguard.address] > 20)
        look = Observer(running.exit_, running.board, active=running.tunnel.active).observe_candidate
        with pytest.raises(TunnelFailed, match=rf"{other.address} is in fr, and its pool is for us.*the old server"):
            await running.tunnel.rotate_seamlessly("us", look, at_once)
        await still_serves(running, clients, wireguard, until)
        # with the other country, the server is accepted
        taken = await running.tunnel.rotate_seamlessly("fr", look, at_once)
        assert taken.address == other.address


async def test_server_with_silent_resolver_leaves_old_one_serving(
    wireguard, another, internet, run_tunnel, until, clients, monkeypatch
):
    monkeypatch.setattr("agent.vpn.verification.VERIFIED_WITHIN_S", 2.0)
    other = another()
    mute = other.file().replace(f"DNS = {other.server}", "DNS = 192.0.2.53")
    async with run_tunnel(wireguard.file(), mute) as running:
        await until(lambda: running.is_up)
        clients.begin(lab.PAGE)
        await until(lambda: clients.seen[wireguard.address] > 20)
        with pytest.raises(TunnelFailed, match=r"the resolver 192\.0\.2\.53 does not answer"):
            await running.tunnel.rotate_seamlessly(None, None, at_once)
        await still_serves(running, clients, wireguard, until)


async def still_serves(running, clients, provider, until):
    """Assert that the old tunnel alone serves, without failures, and that nothing of the other is left."""
    before = clients.seen[provider.address]
    await until(lambda: clients.seen[provider.address] > before + 20)
    assert clients.failures == []
    assert set(clients.seen) <= {provider.address, provider.address_6}
    assert tunnels() == [lab.TUNNEL]
    assert running.is_up
    assert running.board.report.paused == ""
    assert running.resolvers == [(provider.server,)]


@pytest.mark.slow
async def test_ten_rotations_leave_no_residue(wireguard, another, internet, run_tunnel, until, clients, ask_page):
    other = another()
    files = (wireguard.file(), other.file())
    async with run_tunnel(*files, resolvers=(lab.PAGE,)) as running:
        await until(lambda: running.is_up)
        at_first = await traces()
        clients.begin(lab.PAGE)
        for turn in range(10):
            old = other if turn % 2 else wireguard
            await running.tunnel.rotate_seamlessly(None, None, lambda old=old: wait_for_none_open([old.address]))
            await until(lambda: running.is_up)
        await clients.end()
        assert clients.failures == []
        assert tunnels() == [lab.TUNNEL]
        assert await traces() - at_first == set()
        assert at_first - await traces() == set()
        assert await ask_page(lab.PAGE) == wireguard.address


async def traces():
    """Return rules, routes, the tables of nftables, and the number of processes."""
    everything = ("show", "table", "all")
    listed = [
        lab.ip(*words, namespace=lab.EXIT)
        for words in (("rule",), ("-6", "rule"), ("route", *everything), ("-6", "route", *everything))
    ]
    listed += [await run("nft", "list", "table", "inet", each) for each in ("exitplane", "exitplane_pinning")]
    lines = {
        re.sub(r"0x4551\w{4}", "a mark", line.strip())
        for text in listed
        for line in text.splitlines()
        if "fe80" not in line
    }
    return {*lines, f"{len(lab.inhabitants(lab.EXIT, 'wireguard-go'))} wireguard-go"}


async def test_next_rotation_skips_server_that_failed(wireguard, another, internet, run_tunnel, until, monkeypatch):
    dead = providers.WireGuardProvider(wireguard.processes, port=51999, number=96)
    other = another()
    async with run_tunnel(wireguard.file(), dead.file(), other.file()) as running:
        await until(lambda: running.is_up)
        with monkeypatch.context() as patience:
            patience.setattr("agent.vpn.wireguard.wireguard.UP_WITHIN_S", 0.5)
            with pytest.raises(TunnelFailed):
                await running.tunnel.rotate_seamlessly(None, None, at_once)
        taken = await running.tunnel.rotate_seamlessly(None, None, at_once)
        assert taken.server == f"{lab.NET_ADDRESS}:{other.port}"


async def test_new_server_is_taken_if_old_tunnel_dies_during_trial(
    wireguard, another, internet, run_tunnel, until, ask_page
):
    other = another()
    async with run_tunnel(wireguard.file(), other.file()) as running:
        await until(lambda: running.is_up)
        prepared = asyncio.Event()

        async def drain():
            # before the switch, as the resolvers differ
            if running.tunnel.active.interface == lab.TUNNEL:
                wireguard.stop()
                lab.ip("link", "delete", lab.TUNNEL)
                await until(lambda: not running.tunnel.can_rotate_seamlessly)
                prepared.set()

        await running.tunnel.rotate_seamlessly(None, None, drain)
        assert prepared.is_set()
        await until(lambda: running.is_up)
        assert await ask_page(lab.PAGE) == other.address
        assert tunnels() == [lab.OTHER_SLOT]


async def test_cancelled_rotation_leaves_old_server_serving(wireguard, another, internet, run_tunnel, until, clients):
    other = another()
    internet.countries = {other.address_6: "FR"}
    async with run_tunnel(wireguard.file(), other.file()) as running:
        await until(lambda: running.is_up)
        clients.begin(lab.PAGE)
        asked = asyncio.Event()

        async def look(exit_):
            way = EgressPath(exit_.tunnel_interface, None, socket.AF_INET6)
            ((_, seen),) = await query_sources(way, [URL(f"http://[{lab.PAGE_6}]/where")])
            assert seen.address == other.address_6
            asked.set()
            await asyncio.Event().wait()

        ordered = asyncio.create_task(running.tunnel.rotate_seamlessly(None, look, at_once))
        await asyncio.wait_for(asked.wait(), PATIENCE_S)
        assert tunnels() == [lab.TUNNEL, lab.OTHER_SLOT]
        ordered.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ordered
        await still_serves(running, clients, wireguard, until)


async def test_rotation_switches_between_wireguard_and_openvpn(
    wireguard, openvpn, internet, run_tunnel, until, clients
):
    async with run_tunnel(wireguard.file(), openvpn.file(), resolvers=(lab.PAGE,)) as running:
        await until(lambda: running.is_up)
        clients.begin(lab.PAGE)
        await until(lambda: clients.seen[wireguard.address] > 20)
        await running.tunnel.rotate_seamlessly(None, None, lambda: wait_for_none_open([wireguard.address]))
        await until(lambda: clients.seen["10.98.0.10"] > 20)
        await running.tunnel.rotate_seamlessly(None, None, lambda: wait_for_none_open(["10.98.0.10"]))
        assert lab.inhabitants(lab.EXIT, "openvpn") == []
        assert clients.failures == []


async def test_residue_of_both_tunnels_of_killed_agent_is_removed(wireguard, internet, run_tunnel, until, ask_page):
    for interface in (lab.TUNNEL, lab.OTHER_SLOT):
        lab.ip("tuntap", "add", interface, "mode", "tun", namespace=lab.EXIT)
    lab.ip("rule", "add", "pref", "5250", "oif", "gone0", "lookup", "5256", namespace=lab.EXIT)
    async with run_tunnel(wireguard.file()) as running:
        await until(lambda: running.is_up)
        assert tunnels() == [lab.TUNNEL]
        assert "gone0" not in lab.ip("rule", namespace=lab.EXIT)
        assert await ask_page(lab.PAGE) == wireguard.address
    assert "exitplane_pinning" not in await run("nft", "list", "tables")
    assert "525" not in lab.ip("rule", namespace=lab.EXIT)
