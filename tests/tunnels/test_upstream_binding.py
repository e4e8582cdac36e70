"""Envoy's connections to targets: through the tunnel alone, whatever the exit's own link and addresses are."""

from __future__ import annotations

import asyncio
import socket

import pytest

from agent.net.packet_marks import CLIENT_MARK
from agent.vpn.firewall.nftables import close
from agent.vpn.firewall.rules import AllowedPeer, AllowedTraffic
from tests.tunnels import lab, providers, proxy

pytestmark = [pytest.mark.tunnels, pytest.mark.timeout(600), pytest.mark.envoy, pytest.mark.slow]

NEIGHBOUR, OWN = "198.51.100.1", "198.51.100.2"
"""Public addresses on the outer link: the provider's and the exit's. Private ones are refused in any case."""
OWN_IN_TUNNEL = "198.51.100.99"
OK, REFUSED = "HTTP/1.1 200 OK", "HTTP/1.1 503 Service Unavailable"


class Service:
    """A page of the exit's own host that counts its callers."""

    def __init__(self) -> None:
        self.callers: list[str] = []

    async def answer(self, reader, writer):
        self.callers.append(writer.get_extra_info("peername")[0])
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


@pytest.fixture
async def service(network):
    made = Service()
    with lab.inside(lab.EXIT):
        listening = socket.create_server(("0.0.0.0", 0))
    listening.setblocking(False)
    made.port = listening.getsockname()[1]
    async with await asyncio.start_server(made.answer, sock=listening):
        yield made


@pytest.fixture
def tunnel(wireguard, processes):
    """Bring up a tunnel as somebody else does, on a host with a public link."""
    lab.ip("address", "add", f"{OWN}/24", "dev", lab.OUTER, namespace=lab.EXIT)
    lab.ip("address", "add", f"{NEIGHBOUR}/24", "dev", lab.INNER, namespace=lab.NET)
    providers.connect(wireguard, processes)
    lab.ip("address", "add", f"{OWN_IN_TUNNEL}/32", "dev", lab.TUNNEL, namespace=lab.EXIT)
    return wireguard


@pytest.mark.parametrize("from_address", [False, True])
async def test_target_on_own_link_is_reached_through_tunnel(tunnel, internet, service, until, tmp_path, from_address):
    source = tunnel.address if from_address else None
    with proxy.running(tmp_path, interface=lab.TUNNEL, egress_address=source):
        await until(proxy.listens)
        answers = await asyncio.gather(*map(proxy.ask, (f"{NEIGHBOUR}:80", f"{OWN}:{service.port}")))
    assert (answers, service.callers) == ([OK, REFUSED], [])
    assert {*internet.callers} == {f"::ffff:{tunnel.address}"}


@pytest.mark.parametrize("interface", [lab.TUNNEL, None], ids=["bound", "not bound"])
async def test_kill_switch_refuses_own_addresses_to_clients(tunnel, internet, service, until, tmp_path, interface):
    provider = frozenset({AllowedPeer(lab.NET_ADDRESS, providers.WG_PORT, "udp")})
    targets = (f"{lab.PAGE}:80", *(f"{each}:{service.port}" for each in (OWN, OWN_IN_TUNNEL)), f"{NEIGHBOUR}:80")
    with lab.inside(lab.EXIT):
        await close(AllowedTraffic((lab.TUNNEL,), (lab.PORT,), provider, frozenset(), marked=False))
    with proxy.running(tmp_path, interface=interface, client_mark=CLIENT_MARK):
        await until(proxy.listens)
        page, *own, neighbour = await asyncio.gather(*map(proxy.ask, targets))
    assert (page, own, service.callers) == (OK, [REFUSED] * 2, [])
    assert neighbour == (OK if interface else REFUSED)
    assert {*internet.callers} == {f"::ffff:{tunnel.address}"}


async def test_connection_fails_while_tunnel_is_missing(internet, until, tmp_path):
    with proxy.running(tmp_path, interface=lab.TUNNEL):
        await until(proxy.listens)
        assert await proxy.ask(f"{lab.PAGE}:80") == REFUSED
    assert internet.callers == []
