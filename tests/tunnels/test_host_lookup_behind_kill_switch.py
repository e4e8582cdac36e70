"""The lookup of host names behind the kill switch, where no resolver outside may be asked."""

from __future__ import annotations

import asyncio
import shutil
import socket
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from tests.tunnels import lab

pytestmark = [pytest.mark.tunnels, pytest.mark.timeout(600), pytest.mark.envoy]
API, PROVIDER, WHERE = "plane.eptun.example", "vpn.eptun.example", "where.eptun.example"
KNOWN = {API: lab.NET_ADDRESS, PROVIDER: lab.NET_ADDRESS}


@pytest.fixture
def etc(network):
    """Give `etc(name, text)`, which writes a file of the exit's own /etc."""
    folder = Path("/etc/netns") / lab.EXIT
    folder.mkdir(parents=True)

    def write(name: str, text: str) -> None:
        (folder / name).write_text(text)

    yield write
    shutil.rmtree(folder)


class LoopbackResolver(asyncio.DatagramProtocol):
    """A resolver on loopback that knows other containers alone, as a container engine's does."""

    def __init__(self) -> None:
        self.questions: list[str] = []

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        query = dns.message.from_wire(data)
        (question,) = query.question
        name = question.name.to_text(omit_final_dot=True)
        self.questions.append(name)
        answer = dns.message.make_response(query)
        if name not in KNOWN:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(question.name, 5, "IN", "A", KNOWN[name]))
        self.transport.sendto(answer.to_wire(), addr)


@pytest.fixture
async def loopback(network):
    with lab.inside(lab.EXIT):
        asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        asked.bind(("127.0.0.1", 53))
    asked.setblocking(False)
    transport, made = await asyncio.get_running_loop().create_datagram_endpoint(LoopbackResolver, sock=asked)
    yield made
    transport.close()


def asked_outside(capture: lab.Capture) -> list[tuple[str, str, str, int, int]]:
    """Return the packets to a resolver that were captured on the outer link."""
    return [seen for seen in map(lab.describe, capture.take()) if seen[4] == 53]


def named(plane) -> None:
    plane.url = plane.url.replace(lab.NET_ADDRESS, API)


async def test_hosts_file_names_api_and_provider_behind_kill_switch(
    wireguard, internet, plane, source, etc, start_agent, capture, until
):
    etc("hosts", f"127.0.0.1 localhost\n{lab.NET_ADDRESS} {API} {PROVIDER}\n")
    etc("resolv.conf", f"nameserver {lab.NET_ADDRESS}\n")
    named(plane)
    start_agent([wireguard.file(host=PROVIDER)], "--observe", f"http://{WHERE}/json")
    await until(lambda: plane.said(tunnel="up", envoy="up") and "observation" in plane.beats[-1])
    assert source.streams

    def seen() -> bool:
        return plane.beats[-1].get("observation", {}).get("address") == wireguard.address

    await until(seen)
    assert plane.beats[-1]["observation"]["country"] == "de"
    assert {*internet.questions} == {wireguard.address}
    assert asked_outside(capture) == []


async def test_loopback_resolver_names_api_and_provider(
    wireguard, internet, plane, source, etc, loopback, start_agent, capture, until
):
    etc("hosts", "127.0.0.1 localhost\n")
    etc("resolv.conf", "nameserver 127.0.0.1\n")
    named(plane)
    start_agent([wireguard.file(host=PROVIDER)])
    await until(lambda: plane.said(tunnel="up", envoy="up"))
    assert source.streams
    assert {*loopback.questions} >= {API, PROVIDER}
    assert asked_outside(capture) == []
